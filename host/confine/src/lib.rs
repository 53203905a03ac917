//! What a process takes away from itself before it meets a guest.
//!
//! Several processes of vbuild handle what a guest writes: the VMM, the vsock
//! device and the network card beside QEMU, and QEMU. Each confines itself by the
//! functions here, in this order:
//!
//! ```text
//!  process   dies with its parent, no new privileges, no memory images, limits,
//!            no descriptor that was not given to it
//!  paths     landlock: no path but those named, no TCP port, no signal out
//!  calls     seccomp: the VMM's threads have lists of what they may call
//!            (in `microvm`); QEMU, whose calls nobody can list, has a list of
//!            what it may not
//! ```
//!
//! [`Confinement`] is what came of it, which the process tells its parent, and
//! [`trial`] is what a test tries from inside.
//!
//! Architecture invariant: nothing here starts a process or knows of machines.

mod calls;
mod held;
mod paths;
mod process;
pub mod trial;

pub use calls::refuse_calls_of_emulators;
pub use held::{Confinement, Landlock, SystemCalls};
pub use paths::{Paths, restrict};
pub use process::{
    close_above, die_with, forbid_core_files, forbid_memory_images, forbid_privileges,
    limit_descriptors,
};

use std::{io, path::PathBuf};

/// A layer of the confinement that could not be put on.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A system call failed.
    #[error("failed to {action}")]
    System {
        /// What it was for.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The parent died while this process started.
    #[error("the parent process has ended")]
    Orphaned,
    /// A path that is to stay open cannot be opened.
    #[error("failed to open `{}`, which the process needs", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A list of system calls was not accepted.
    #[error("failed to put on the list of refused system calls: {0}")]
    Calls(String),
}

pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |e| ConfineError::System { action, source: e.into() }
}
