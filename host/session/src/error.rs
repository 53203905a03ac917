//! Errors of a session between the host and the agent.

use machine::{HaltReason, MachineError};
use wire::{Failure, FrameError, Reply};

/// Errors of a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The machine could not be started or controlled.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The agent did not send its hello in time.
    #[error("the guest agent did not answer within {seconds} seconds")]
    BootTimeout {
        /// The deadline in seconds.
        seconds: u64,
        /// The tail of the guest's console output.
        console_tail: String,
    },
    /// The machine ended while it was in use.
    #[error("the virtual machine is gone: {}", describe(reason))]
    Lost {
        /// The way in which the machine ended.
        reason: HaltReason,
        /// The tail of the guest's console output.
        console_tail: String,
    },
    /// Agent and host have different protocol versions.
    #[error("the guest agent speaks protocol {agent}, this vbuild speaks {host}")]
    Version {
        /// The agent's protocol version.
        agent: u32,
        /// The host's protocol version.
        host: u32,
    },
    /// A request failed in the guest.
    #[error(transparent)]
    Guest(Failure),
    /// The agent broke the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An operation of the host on a connection or a data stream failed.
    #[error("{action}")]
    Io {
        /// The action that failed.
        action: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl SessionError {
    pub(crate) fn unexpected(reply: &Reply) -> Self {
        Self::Frame(FrameError::Protocol(format!("unexpected reply {reply:?}")))
    }

    /// Returns the tail of the guest's console output, if the error has it.
    #[must_use]
    pub fn console_tail(&self) -> Option<&str> {
        match self {
            Self::BootTimeout { console_tail, .. } | Self::Lost { console_tail, .. } => {
                Some(console_tail)
            }
            _ => None,
        }
    }
}

fn describe(reason: &HaltReason) -> String {
    match reason {
        HaltReason::PowerOff => "the guest powered itself off".into(),
        HaltReason::Reboot => "the guest asked for a reboot".into(),
        HaltReason::Panic => "the guest's kernel panicked".into(),
        HaltReason::Killed => "it was stopped".into(),
        HaltReason::Lost(why) => why.clone(),
    }
}
