//! Errors of running a plan.

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
        /// The name of the phase or stage.
        phase: String,
        /// The name of the script or command.
        script: String,
        /// The element that the script came from, if it is known.
        origin: Option<String>,
        /// The place where the script ran.
        place: Place,
        /// The exit status of the script.
        status: ExitStatus,
        /// The time limit, if the script exceeded it.
        timeout: Option<Duration>,
        /// The last lines of the script's output.
        tail: Vec<String>,
    },
    /// The guest or the connection to it failed.
    #[error("stage {stage}, {step}")]
    Session {
        /// The name of the stage.
        stage: String,
        /// A description of the step.
        step: String,
        /// The cause.
        #[source]
        source: SessionError,
    },
    /// A machine could not be prepared for steps.
    #[error("the build machine could not be prepared: {action}")]
    Prepare {
        /// The action that failed.
        action: String,
        /// The cause.
        #[source]
        source: SessionError,
    },
    /// The user's helper drive cannot be used.
    #[error("helper drive {}: {reason}", path.display())]
    HelperDrive {
        /// The path of the drive's file.
        path: PathBuf,
        /// The reason why the drive cannot be used.
        reason: String,
    },
    /// A tool of the appliance failed.
    #[error("`{argv}` {}", describe_status(*status, None))]
    Tool {
        /// The command line.
        argv: String,
        /// The exit status of the tool.
        status: ExitStatus,
        /// The tail of the tool's standard error.
        stderr: String,
    },
    /// The recipe has an error that is found only while it runs.
    #[error("{0}")]
    Recipe(String),
    /// The tree is too large to compute the size of an image from it.
    #[error(
        "the guest says that the image's tree takes {tree_kib} KiB, and an image is sized after \
         {limit_kib} KiB at most; give the size instead"
    )]
    ImageSize {
        /// The size of the tree as reported by the guest, in KiB.
        tree_kib: u64,
        /// The maximum size of a tree, in KiB.
        limit_kib: u64,
    },
    /// A partition table cannot be created.
    #[error(transparent)]
    Table(#[from] TableError),
    /// An operation on a file of the host failed.
    #[error("{action} {}", path.display())]
    Host {
        /// The action that failed.
        action: String,
        /// The path of the file.
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
        /// The path of the output.
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
    /// Returns the tail of the guest's console output, if the error has it.
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
