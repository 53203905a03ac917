//! Functions by which a process confines itself before it handles guest data.
//!
//! Several processes of vbuild handle guest data: the VMM, the vsock device and the network card
//! beside QEMU, and QEMU itself. Each confines itself with the functions here, in this order:
//!
//! ```text
//!  process   dies with its parent, no new privileges, no memory images, limits,
//!            no descriptor that was not given to it
//!  paths     landlock: no path but those named, no TCP port, no signal out
//!  calls     seccomp: the VMM's threads have lists of what they may call
//!            (in `microvm`); QEMU, whose calls cannot be listed, has a list of
//!            what it may not
//! ```
//!
//! [`Confinement`] is the result, which the process reports to its parent; [`trial`] has the
//! attempts that tests make from inside.
//!
//! Architecture invariant: this crate starts no process and does not depend on machines.

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

/// Why a part of the confinement could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A system call failed.
    #[error("failed to {action}")]
    System {
        /// The purpose of the call.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The parent died while this process started.
    #[error("the parent process has ended")]
    Orphaned,
    /// A path that must stay accessible cannot be opened.
    #[error("failed to open `{}`, which the process needs", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel did not accept a list of system calls.
    #[error("failed to put on the list of refused system calls: {0}")]
    Calls(String),
}

pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |e| ConfineError::System { action, source: e.into() }
}
