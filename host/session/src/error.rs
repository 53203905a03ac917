//! What can go wrong between host and agent.

use machine::{HaltReason, MachineError};
use wire::{Failure, FrameError, Reply};

/// Errors of a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The machine could not be started or driven.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The agent did not say hello in time.
    #[error("the guest agent did not answer within {seconds} seconds")]
    BootTimeout {
        /// The deadline.
        seconds: u64,
        /// The end of the console.
        console_tail: String,
    },
    /// The machine is gone in the middle of the work.
    #[error("the virtual machine is gone: {}", describe(reason))]
    Lost {
        /// How it ended.
        reason: HaltReason,
        /// The end of the console.
        console_tail: String,
    },
    /// Agent and host are of different versions.
    #[error("the guest agent speaks protocol {agent}, this vbuild speaks {host}")]
    Version {
        /// The agent's version.
        agent: u32,
        /// The host's version.
        host: u32,
    },
    /// The agent carried out a request and it failed.
    #[error(transparent)]
    Guest(Failure),
    /// The agent breaks the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A stream of the host that feeds or takes data failed.
    #[error("{action}")]
    Io {
        /// What was being done.
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

    /// The end of the guest's console, where it explains the error.
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
