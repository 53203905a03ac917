//! The vsock device of a machine run by QEMU, in its own process.
//!
//! ```text
//!  vbuild: VsockProcess                    child                     QEMU
//!    │── Start{vsock}, descriptors ───────►│ confines itself
//!    │◄─────────────────────────── Started │◄── vhost-user socket ──►│
//!    │── Connect{port}, stream ───────────►│◄── rings in the guest's memory
//!    │◄─ policy socket, as for a machine ──│
//! ```
//!
//! The guest's ring data is as untrusted here as under vbuild's own VMM, so the same rules apply:
//! the process has the passed descriptors, no path, no network, and a list of system calls.

mod child;
mod device;
mod parent;

pub(crate) use child::serve;
pub(crate) use parent::NAME;
pub use parent::VsockProcess;
