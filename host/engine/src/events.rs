//! What happens during a build, as data. Libraries emit these; the terminal,
//! the JSON stream and the log are renderers of them and live in the binary.

use std::{path::PathBuf, sync::Arc, time::Duration};

use plan::Place;
use session::ExitStatus;

/// Which output of a command a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What kind of step an event is about, as far as renderers treat kinds differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Files go into the guest; such steps are many and quick.
    Upload,
    /// A tree is copied within the guest.
    TreeCopy,
    /// A tree is written as an output, which [`Event::OutputWritten`] reports too.
    TreeOutput,
    /// The disks are saved in the cache.
    DisksSaved,
    /// Any other step.
    Other,
}

/// What kind of command an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandKind {
    /// A script of the recipe, called by its name.
    Script,
    /// A command of vbuild's own, called by a sentence.
    Command,
}

/// Something that happened. Renderers take the times of events; all
/// durations here are measured by the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The build begins.
    BuildStarted {
        /// The build's name.
        name: String,
        /// How many stages the plan has.
        stages: usize,
    },
    /// A machine is started; comes again when a stage needs a fresh one.
    MachineStarting {
        /// `kvm` or `tcg` and who runs it, for people.
        accel: String,
        /// Virtual processors.
        vcpus: u8,
        /// Memory in MiB.
        memory_mib: u32,
    },
    /// A process that handles what the guest writes has confined itself.
    Confined {
        /// Name of the process.
        process: String,
        /// What holds, for people.
        holds: String,
        /// The version of landlock that the kernel granted; none when it granted
        /// nothing.
        landlock: Option<u32>,
        /// The layers that do not hold; none when all do.
        lacks: Vec<String>,
    },
    /// The agent has answered.
    MachineReady {
        /// From the start of the machine to the hello.
        boot: Duration,
        /// The guest kernel's release.
        kernel: String,
        /// Whether the machine was restored from saved memory instead of booted.
        restored: bool,
    },
    /// A stage begins.
    StageStarted {
        /// Position from 0.
        index: usize,
        /// The name of the stage.
        name: String,
    },
    /// A stage was found in the cache and is not run.
    StageCached {
        /// Position from 0.
        index: usize,
        /// The name of the stage.
        name: String,
    },
    /// A stage has ended well.
    StageFinished {
        /// Position from 0.
        index: usize,
        /// The name of the stage.
        name: String,
        /// How long it took.
        elapsed: Duration,
    },
    /// A step within a stage begins (uploads, layout, copies, …).
    StepStarted {
        /// The kind of the step.
        kind: StepKind,
        /// What it does, for people.
        title: String,
    },
    /// A step has ended well.
    StepFinished {
        /// As in [`Event::StepStarted`].
        kind: StepKind,
        /// As in [`Event::StepStarted`].
        title: String,
        /// How long it took.
        elapsed: Duration,
    },
    /// A script or command begins.
    ScriptStarted {
        /// Whether it is a script of the recipe.
        kind: CommandKind,
        /// The phase or stage.
        phase: String,
        /// The name of the script or command.
        script: String,
        /// The element or other source that it came from, where known.
        origin: Option<String>,
        /// Where it runs.
        place: Place,
    },
    /// A line of output of the running script, lossily decoded and bounded in
    /// length; control characters are the renderer's business.
    OutputLine {
        /// The stream.
        stream: OutputStream,
        /// Without the newline.
        line: String,
    },
    /// A script or command has ended, well or not.
    ScriptFinished {
        /// As in [`Event::ScriptStarted`].
        kind: CommandKind,
        /// The phase or stage.
        phase: String,
        /// The name of the script or command.
        script: String,
        /// How it ended.
        status: ExitStatus,
        /// Wall-clock time.
        elapsed: Duration,
        /// Processor time of it and its children in the guest.
        cpu: Duration,
    },
    /// The network was used: one connection that the guest opened has ended.
    Connection {
        /// Name or address that was asked for.
        host: String,
        /// The port that was asked for.
        port: u16,
        /// Bytes to the server.
        sent: u64,
        /// Bytes from the server.
        received: u64,
        /// Why it was refused, if it was.
        refused: Option<String>,
    },
    /// An output is being written.
    OutputProgress {
        /// The file.
        path: PathBuf,
        /// Bytes of the source done.
        done: u64,
        /// Bytes of the source in all; 0 when unknown.
        total: u64,
    },
    /// An output is finished.
    OutputWritten {
        /// The file.
        path: PathBuf,
        /// The size of the output file in bytes.
        bytes: u64,
        /// For disk images, the virtual size.
        virtual_bytes: Option<u64>,
        /// How long it took.
        elapsed: Duration,
    },
    /// A remark for the user.
    Message {
        /// The text, one line.
        text: String,
    },
    /// A warning for the user.
    Warning {
        /// The text, one line.
        text: String,
    },
    /// The build has ended well.
    BuildFinished {
        /// How long it took.
        elapsed: Duration,
    },
}

/// Takes events, from any thread, without blocking for long.
pub trait Observer: Send + Sync {
    /// Takes one event.
    fn event(&self, event: &Event);
}

/// A shared observer.
pub type SharedObserver = Arc<dyn Observer>;
