//! The vsock device for a machine that QEMU runs, in a process of its own.
//!
//! ```text
//!  vbuild: VsockProcess                    child                     QEMU
//!    │── Start{vsock}, descriptors ───────►│ confines itself
//!    │◄─────────────────────────── Started │◄── vhost-user socket ──►│
//!    │── Connect{port}, stream ───────────►│◄── rings in the guest's memory
//!    │◄─ policy socket, as for a machine ──│
//! ```
//!
//! What the guest puts into the rings is as hostile here as under the own VMM, so
//! the same rules hold: the process has the descriptors it was given, no path, no
//! network, and a list of system calls.

mod child;
mod device;
mod parent;

pub(crate) use child::serve;
pub(crate) use parent::NAME;
pub use parent::VsockProcess;
