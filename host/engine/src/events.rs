//! The events of a build, as data. Libraries emit them; the terminal, the JSON stream and the log
//! are renderers of them, and are part of the binary.

use std::{path::PathBuf, sync::Arc, time::Duration};

use plan::Place;
use session::ExitStatus;

/// The output of a command that a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The kind of a step, as far as renderers distinguish kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// An upload of files into the guest. Such steps are numerous and quick.
    Upload,
    /// A copy of a tree within the guest.
    TreeCopy,
    /// The writing of a tree as an output, which [`Event::OutputWritten`] reports too.
    TreeOutput,
    /// The saving of the disks in the cache.
    DisksSaved,
    /// Any other step.
    Other,
}

/// The kind of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandKind {
    /// A script of the recipe, described by its name.
    Script,
    /// A command of vbuild itself, described by a phrase.
    Command,
}

/// An event of a build. Renderers record when events arrive; all durations in events are measured
/// by the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The build begins.
    BuildStarted {
        /// The name of the build.
        name: String,
        /// The number of stages of the plan.
        stages: usize,
    },
    /// A machine is being started. This event is repeated if a stage needs a fresh machine.
    MachineStarting {
        /// A description of the backend for the user, such as `TCG (QEMU 10.0)`.
        accel: String,
        /// The number of virtual processors.
        vcpus: u8,
        /// The memory of the machine in MiB.
        memory_mib: u32,
    },
    /// A process that handles data of the guest has confined itself.
    Confined {
        /// The name of the process.
        process: String,
        /// A description of the restrictions in force, for the user.
        holds: String,
        /// The version of Landlock that the kernel granted; `None` if it granted none.
        landlock: Option<u32>,
        /// Descriptions of the restrictions that are not in force; empty if all are.
        lacks: Vec<String>,
    },
    /// The agent has sent its hello.
    MachineReady {
        /// The time from the start of the machine to the hello.
        boot: Duration,
        /// The release of the guest's kernel.
        kernel: String,
        /// Whether the machine was restored from saved memory instead of booted.
        restored: bool,
    },
    /// A stage begins.
    StageStarted {
        /// The position of the stage in the plan, from 0.
        index: usize,
        /// The name of the stage.
        name: String,
    },
    /// A stage was found in the cache and is not run.
    StageCached {
        /// The position of the stage in the plan, from 0.
        index: usize,
        /// The name of the stage.
        name: String,
    },
    /// A stage has succeeded.
    StageFinished {
        /// The position of the stage in the plan, from 0.
        index: usize,
        /// The name of the stage.
        name: String,
        /// The duration of the stage.
        elapsed: Duration,
    },
    /// A step of a stage begins (an upload, a layout, a copy, …).
    StepStarted {
        /// The kind of the step.
        kind: StepKind,
        /// A description of the step for the user.
        title: String,
    },
    /// A step has succeeded.
    StepFinished {
        /// The kind of the step, as in [`Event::StepStarted`].
        kind: StepKind,
        /// The description of the step, as in [`Event::StepStarted`].
        title: String,
        /// The duration of the step.
        elapsed: Duration,
    },
    /// A script or command begins.
    ScriptStarted {
        /// The kind of the command.
        kind: CommandKind,
        /// The name of the phase or stage.
        phase: String,
        /// The name of the script or command.
        script: String,
        /// The element or other source of the script, if it is known.
        origin: Option<String>,
        /// The place where the script runs.
        place: Place,
    },
    /// A line of output of the running script, decoded lossily and limited in length. Control
    /// characters are handled by the renderers.
    OutputLine {
        /// The output that the line came from.
        stream: OutputStream,
        /// The line, without its newline.
        line: String,
    },
    /// A script or command has ended, successfully or not.
    ScriptFinished {
        /// The kind of the command, as in [`Event::ScriptStarted`].
        kind: CommandKind,
        /// The name of the phase or stage.
        phase: String,
        /// The name of the script or command.
        script: String,
        /// The exit status of the script or command.
        status: ExitStatus,
        /// The elapsed wall-clock time.
        elapsed: Duration,
        /// The processor time of the process and its children in the guest.
        cpu: Duration,
    },
    /// A network connection that the guest opened has ended, or was refused.
    Connection {
        /// The host name or address that the guest requested.
        host: String,
        /// The port that the guest requested.
        port: u16,
        /// The number of bytes sent to the server.
        sent: u64,
        /// The number of bytes received from the server.
        received: u64,
        /// The reason why the connection was refused; `None` if it was not.
        refused: Option<String>,
    },
    /// An output is being written.
    OutputProgress {
        /// The path of the output file.
        path: PathBuf,
        /// The number of bytes of the source that have been processed.
        done: u64,
        /// The total number of bytes of the source; 0 if it is unknown.
        total: u64,
    },
    /// An output has been written completely.
    OutputWritten {
        /// The path of the output file.
        path: PathBuf,
        /// The size of the output file in bytes.
        bytes: u64,
        /// The virtual size in bytes, for disk images.
        virtual_bytes: Option<u64>,
        /// The time that writing the output took.
        elapsed: Duration,
    },
    /// A message for the user.
    Message {
        /// The text, which is one line.
        text: String,
    },
    /// A warning for the user.
    Warning {
        /// The text, which is one line.
        text: String,
    },
    /// The build has succeeded.
    BuildFinished {
        /// The duration of the build.
        elapsed: Duration,
    },
}

/// A receiver of events. It may be called from any thread, and must not block for long.
pub trait Observer: Send + Sync {
    /// Receives an event.
    fn event(&self, event: &Event);
}

/// A shared observer.
pub type SharedObserver = Arc<dyn Observer>;
