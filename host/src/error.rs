//! The single error type of the command line: its kinds, the exit status of each kind, and the
//! conversions from the errors of all libraries, so that a command needs only `?`. Nothing else in
//! vbuild ends the process.
//!
//! Errors of this package are converted where they are defined. `std::io::Error` has no conversion,
//! because its kind depends on the file, which only the caller knows.

use std::{error::Error, fmt};

use ::appliance::{Error as ApplianceError, ErrorKind as ApplianceErrorKind};
use base_image::BaseError;
use dib::{DibError, DibErrorKind};
use engine::EngineError;
use inputs::SourceError;
use layers::{NewLayerError, ProjectError};
use machine::MachineError;
use output::OutputError;
use reach::InvalidProxy;
use session::SessionError;
use store::StoreError;

type Source = Box<dyn Error + Send + Sync>;

/// The kind of a failure. It decides the exit status, and whether the message about a failed build
/// includes the script that ran last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line, or an input that it names, is wrong.
    Usage,
    /// The build failed: a recipe, a script, the guest, the network, an output.
    Build,
    /// A script of extra-data.d failed. vbuild exits with the script's status, as virt-dib does.
    ExtraData {
        /// The script's exit status.
        status: u8,
    },
    /// The host lacks something: QEMU, memory, disk space, a permission.
    Host,
    /// `--require-confinement` is given, but the kernel does not grant every layer of the
    /// confinement.
    Unconfined,
    /// The command was stopped by SIGINT, SIGTERM or SIGHUP.
    Interrupted,
    /// `vbuild exec` itself failed, not the command that it runs.
    Exec,
    /// The command line of `vbuild vmdb` is wrong.
    VmdbUsage,
    /// `vbuild layers compare-layers` could not make the comparison.
    NotCompared,
}

/// Returns the exit status of a kind. The table in vbuild(1) is made with this function.
///
/// virt-dib exits with 1 on every failure, and callers test for that, so the kinds of failures that
/// virt-dib has too stay 1. The other kinds are new and have their own statuses: `exec` passes the
/// command's status on, so a failure of vbuild itself has the status of env(1); `vmdb` keeps the
/// status of vmdb2; 1 from `compare-layers` would mean that the layers differ; and
/// `--require-confinement` does not exist in virt-dib.
#[must_use]
pub fn exit_status(kind: Kind) -> u8 {
    match kind {
        Kind::Usage | Kind::Build | Kind::Host | Kind::Interrupted => 1,
        Kind::ExtraData { status } => status.max(1),
        Kind::VmdbUsage | Kind::NotCompared => 2,
        Kind::Unconfined => 3,
        Kind::Exec => 125,
    }
}

/// Ends the process without unwinding, on the user's second Ctrl-C. The next run removes what is
/// left behind; the machine ends with this process.
pub(crate) fn exit_now(kind: Kind) -> ! {
    std::process::exit(exit_status(kind).into())
}

/// The error of a failed command: its kind, the failure with its causes, and hints for the user.
#[derive(Debug)]
pub struct CommandError {
    /// The kind of the failure.
    pub kind: Kind,
    /// The failure; its sources are printed below it.
    pub source: Source,
    /// Hints on what the user can do, each printed as a line of its own.
    pub hints: Vec<String>,
    /// Whether the error has been shown to the user already.
    pub told: bool,
    /// Whether the user has asked to try the build again.
    pub retry: bool,
}

/// An error that consists of a text and an optional cause.
#[derive(Debug)]
struct Words {
    text: String,
    source: Option<Source>,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Words {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl CommandError {
    /// Creates an error of this kind from an error value.
    pub(crate) fn new(kind: Kind, source: impl Into<Source>) -> Self {
        Self { kind, source: source.into(), hints: Vec::new(), told: false, retry: false }
    }

    /// Creates an error with a text and no cause.
    pub(crate) fn message(kind: Kind, text: impl Into<String>) -> Self {
        Self::new(kind, Words { text: text.into(), source: None })
    }

    /// Creates a usage error with a text and no cause.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::message(Kind::Usage, text)
    }

    /// Adds a text about what was being done when the error occurred, as an outer error.
    pub(crate) fn context(mut self, text: impl Into<String>) -> Self {
        self.source = Box::new(Words { text: text.into(), source: Some(self.source) });
        self
    }

    /// Replaces the text and the causes by other words, if there are any.
    pub(crate) fn in_words(self, words: Option<String>) -> Self {
        match words {
            Some(text) => Self { source: Box::new(Words { text, source: None }), ..self },
            None => self,
        }
    }

    /// Adds a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a hint if there is one.
    pub(crate) fn maybe_hint(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// Returns the exit status of the process.
    pub(crate) fn exit_status(&self) -> u8 {
        exit_status(self.kind)
    }

    /// Returns the standard error of the failed tool of the appliance, if a tool is what failed.
    pub(crate) fn tool_output(&self) -> Option<&str> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self.source.as_ref());
        while let Some(error) = cause {
            if let Some(EngineError::Tool { stderr, .. }) = error.downcast_ref() {
                return Some(stderr);
            }
            cause = error.source();
        }
        None
    }

    /// Returns the texts of the error and its causes, outermost first, without repetitions: a
    /// source that an error already shows in its own text is left out.
    pub(crate) fn causes(&self) -> Vec<String> {
        checked::causes(self.source.as_ref())
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&checked::chain(self.source.as_ref()))
    }
}

/// Returns a hint with the end of the guest's console, if the console has any output.
fn console_hint(tail: Option<&str>) -> Option<String> {
    let tail = tail.filter(|tail| !tail.trim().is_empty())?;
    Some(format!("the end of the guest's console:\n{tail}"))
}

impl From<EngineError> for CommandError {
    fn from(error: EngineError) -> Self {
        let hint = console_hint(error.console_tail());
        let kind = match &error {
            EngineError::Cancelled => Kind::Interrupted,
            EngineError::Script { phase, status: wire::ExitStatus::Code(code), .. }
                if phase == "extra-data.d" =>
            {
                Kind::ExtraData { status: u8::try_from(*code).unwrap_or(1) }
            }
            EngineError::HelperDrive { .. } => Kind::Usage,
            EngineError::Host { .. } => Kind::Host,
            _ => Kind::Build,
        };
        Self::new(kind, error).maybe_hint(hint)
    }
}

impl From<SessionError> for CommandError {
    fn from(error: SessionError) -> Self {
        let hint = console_hint(error.console_tail());
        Self::new(Kind::Build, error).maybe_hint(hint)
    }
}

impl From<MachineError> for CommandError {
    fn from(error: MachineError) -> Self {
        let hint = match &error {
            MachineError::Unavailable { hint, .. } => hint.clone(),
            _ => None,
        };
        Self::new(Kind::Host, error).maybe_hint(hint)
    }
}

impl From<ApplianceError> for CommandError {
    fn from(error: ApplianceError) -> Self {
        let kind = match error.kind() {
            ApplianceErrorKind::Request => Kind::Usage,
            ApplianceErrorKind::DiskFull => Kind::Host,
            _ => Kind::Build,
        };
        let hint = error.hint();
        Self::new(kind, error).maybe_hint(hint)
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        let hint = error.hint();
        Self::new(Kind::Host, error).maybe_hint(hint)
    }
}

impl From<OutputError> for CommandError {
    fn from(error: OutputError) -> Self {
        let hint = error.hint();
        Self::new(Kind::Build, error).maybe_hint(hint)
    }
}

impl From<BaseError> for CommandError {
    fn from(error: BaseError) -> Self {
        let kind = match &error {
            BaseError::Download(_) => Kind::Build,
            _ => Kind::Usage,
        };
        let hint = error.hint();
        Self::new(kind, error).maybe_hint(hint)
    }
}

impl From<SourceError> for CommandError {
    fn from(error: SourceError) -> Self {
        let hint = error.hint();
        Self::new(Kind::Usage, error).maybe_hint(hint)
    }
}

impl From<InvalidProxy> for CommandError {
    /// Converts the error of a proxy that cannot be used. Such a proxy is not bypassed, because it
    /// may be there to filter.
    fn from(error: InvalidProxy) -> Self {
        Self::new(Kind::Usage, error)
            .hint("name a proxy that works, or say with NO_PROXY='*' that none shall be used")
    }
}

impl From<DibError> for CommandError {
    fn from(error: DibError) -> Self {
        let kind = match error.kind() {
            DibErrorKind::Usage | DibErrorKind::Recipe => Kind::Usage,
            DibErrorKind::Fetch => Kind::Build,
            DibErrorKind::Io => Kind::Host,
        };
        let hints = error.hints();
        hints.into_iter().fold(Self::new(kind, error), Self::hint)
    }
}

impl From<vmdb::Failure> for CommandError {
    fn from(failure: vmdb::Failure) -> Self {
        use vmdb::Failure;
        let kind = match &failure {
            Failure::NoTarget | Failure::Empty(_) | Failure::Variable(_) | Failure::Share(_) => {
                Kind::VmdbUsage
            }
            Failure::Read { .. } | Failure::TooLarge(_) | Failure::Spec(_) => Kind::Build,
        };
        let hint = match &failure {
            Failure::NoTarget => Some("`--output FILE` names the image that is made"),
            Failure::Variable(_) => Some("such as `--variable suite=bookworm`"),
            _ => None,
        };
        Self::new(kind, failure).maybe_hint(hint)
    }
}

impl From<ProjectError> for CommandError {
    fn from(error: ProjectError) -> Self {
        let hint = match &error {
            ProjectError::Empty(_) => {
                Some("`vbuild layers new-layer 10_name` makes one".to_owned())
            }
            ProjectError::NotExecutable(path) => Some(format!("chmod +x {}", path.display())),
            ProjectError::ScriptElsewhere { .. } => {
                Some("put a copy of it in its place".to_owned())
            }
            ProjectError::Source(error) => error.hint(),
            _ => None,
        };
        Self::new(Kind::Usage, error).maybe_hint(hint)
    }
}

impl From<NewLayerError> for CommandError {
    fn from(error: NewLayerError) -> Self {
        let kind = match &error {
            NewLayerError::Io { .. } => Kind::Host,
            _ => Kind::Usage,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_listed_once() {
        let io = std::io::Error::other("disk full");
        let error = CommandError::new(Kind::Build, io)
            .context("failed to write `a: disk full`")
            .context("failed to make the image");
        assert_eq!(error.causes(), ["failed to make the image", "failed to write `a: disk full`"]);
    }

    #[test]
    fn a_tools_words_are_found_below_what_was_being_done() {
        let tool = EngineError::Tool {
            argv: "mkfs".into(),
            status: wire::ExitStatus::Code(1),
            stderr: "too small".into(),
        };
        let error = CommandError::new(Kind::Build, tool).context("no image");
        assert_eq!(error.tool_output(), Some("too small"));
        assert_eq!(CommandError::usage("x").tool_output(), None);
    }

    #[test]
    fn extra_data_never_ends_with_success() {
        assert_eq!(exit_status(Kind::ExtraData { status: 3 }), 3);
        assert_eq!(exit_status(Kind::ExtraData { status: 0 }), 1);
    }
}
