//! Why a process of this crate does not start: the VMM, the vsock device, the network card.

use std::io;

use crate::{memory::MemoryError, sandbox::SandboxError, saving::SavingError, vm::VmError};

/// Errors before the machine runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("the first message of the parent is missing or wrong: {0}")]
    Message(String),
    #[error("failed to {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error("drive `{serial}` cannot be used: {reason}")]
    Drive { serial: String, reason: String },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Saved(#[from] SavingError),
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Counters(#[from] MemoryError),
    #[error(transparent)]
    Mux(#[from] vsock_mux::MuxError),
}

pub(crate) fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> ChildError {
    let action = action.into();
    move |source| ChildError::Io { action, source }
}
