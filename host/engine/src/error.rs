//! What can go wrong while a plan is carried out.

use std::{path::PathBuf, time::Duration};

use plan::Place;
use session::{ExitStatus, SessionError};

use crate::layout::TableError;

/// Errors of a build.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A script or command of the recipe failed.
    #[error(
        "{phase}/{script}{} {}",
        origin.as_ref().map(|o| format!(" (element {o})")).unwrap_or_default(),
        describe_status(*status, *timeout)
    )]
    Script {
        /// The phase or stage.
        phase: String,
        /// The script.
        script: String,
        /// The element it came from.
        origin: Option<String>,
        /// Where it ran.
        place: Place,
        /// How it ended.
        status: ExitStatus,
        /// The limit, for one that was timed out.
        timeout: Option<Duration>,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// The guest or the way to it failed.
    #[error("stage {stage}, {step}")]
    Session {
        /// The stage.
        stage: String,
        /// The step.
        step: String,
        /// The cause.
        #[source]
        source: SessionError,
    },
    /// A machine could not be made ready.
    #[error("the build machine could not be prepared: {action}")]
    Prepare {
        /// What was being done.
        action: String,
        /// The cause.
        #[source]
        source: SessionError,
    },
    /// The user's helper drive cannot be used.
    #[error("helper drive {}: {reason}", path.display())]
    HelperDrive {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A tool of the appliance failed.
    #[error("`{argv}` {}", describe_status(*status, None))]
    Tool {
        /// The command line.
        argv: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// The recipe itself is at fault in a way that shows only while it runs.
    #[error("{0}")]
    Recipe(String),
    /// A tree that no image can be sized after.
    #[error(
        "the guest says that the image's tree takes {tree_kib} KiB, and an image is sized after \
         {limit_kib} KiB at most; give the size instead"
    )]
    ImageSize {
        /// What the guest says, in KiB.
        tree_kib: u64,
        /// The largest tree that an image is sized after, in KiB.
        limit_kib: u64,
    },
    /// A partition table that cannot be made.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A file of the host.
    #[error("{action} {}", path.display())]
    Host {
        /// What was being done.
        action: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// An input has changed since the recipe was read.
    #[error("{} has changed while the build was running", .0.display())]
    InputChanged(PathBuf),
    /// An output could not be written.
    #[error("cannot write {}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user stopped the build.
    #[error("the build was stopped")]
    Cancelled,
}

impl EngineError {
    /// The end of the guest's console, where it explains the error.
    #[must_use]
    pub fn console_tail(&self) -> Option<&str> {
        match self {
            Self::Session { source, .. } | Self::Prepare { source, .. } => source.console_tail(),
            _ => None,
        }
    }
}

fn describe_status(status: ExitStatus, timeout: Option<Duration>) -> String {
    match status {
        ExitStatus::Code(code) => format!("failed with exit status {code}"),
        ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
        ExitStatus::TimedOut => match timeout {
            Some(limit) => format!("did not end within {} seconds", limit.as_secs()),
            None => "did not end in time".into(),
        },
    }
}
