//! The one error of the command line, and the one table from its kind to the
//! exit status. Nothing else in vbuild ends the process.

use std::{error::Error, fmt};

use engine::EngineError;

type Source = Box<dyn Error + Send + Sync>;

/// What sort of failure it is; decides the exit status and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line, or an input that it names, is wrong.
    Usage,
    /// The build failed: a recipe, a script, the guest, the network, an output.
    Build,
    /// A script of extra-data.d failed; virt-dib passes its status on.
    ExtraData {
        /// The script's exit status.
        status: u8,
    },
    /// This machine lacks something: QEMU, memory, disk space, a right.
    Host,
    /// The kernel does not grant every layer of the confinement, and
    /// `--require-confinement` demands it.
    Unconfined,
    /// SIGINT, SIGTERM or SIGHUP.
    Interrupted,
    /// vbuild itself, not the command, failed in `vbuild exec`.
    Exec,
    /// The command line of `vbuild vmdb` is wrong.
    VmdbUsage,
    /// `vbuild layers compare-layers` could not compare.
    NotCompared,
}

/// The exit status of each kind; vbuild(1) repeats this table.
///
/// virt-dib has 1 for everything, and callers test for that, so the kinds that
/// it knows stay 1. Only what it does not have is told apart: `exec` passes a
/// command's status on and needs one of its own, which is env(1)'s, `vmdb`
/// keeps vmdb2's, and a demand that virt-dib does not know has its own.
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

/// Ends the process without unwinding: for the user's second Ctrl-C. What it
/// leaves behind, the next run cleans; the machine dies with it.
pub fn exit_now(kind: Kind) -> ! {
    std::process::exit(exit_status(kind).into())
}

/// A failed command: its kind, what failed with its causes, and what the user
/// can do.
#[derive(Debug)]
pub struct CommandError {
    /// The kind.
    pub kind: Kind,
    /// What failed; its sources are printed below it.
    pub source: Source,
    /// What the user can do about it, each a line of its own.
    pub hints: Vec<String>,
    /// Whether the user has been told already, by the failure block of a script.
    pub told: bool,
    /// Whether the user wants the same to be tried again.
    pub retry: bool,
}

/// A failure that has no error value behind it, only words.
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
    /// Wraps an error value.
    pub fn new(kind: Kind, source: impl Into<Source>) -> Self {
        Self { kind, source: source.into(), hints: Vec::new(), told: false, retry: false }
    }

    /// From words.
    pub fn message(kind: Kind, text: impl Into<String>) -> Self {
        Self::new(kind, Words { text: text.into(), source: None })
    }

    /// A usage error from words.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::message(Kind::Usage, text)
    }

    /// Says what was being done when the error came.
    #[must_use]
    pub fn context(mut self, text: impl Into<String>) -> Self {
        self.source = Box::new(Words { text: text.into(), source: Some(self.source) });
        self
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a hint if there is one.
    #[must_use]
    pub fn maybe_hint(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// The exit status of the process.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        exit_status(self.kind)
    }

    /// What a failed tool of the appliance wrote, if that is what failed.
    #[must_use]
    pub fn tool_output(&self) -> Option<&str> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self.source.as_ref());
        while let Some(error) = cause {
            if let Some(EngineError::Tool { stderr, .. }) = error.downcast_ref() {
                return Some(stderr);
            }
            cause = error.source();
        }
        None
    }

    /// The error and its causes, outermost first, without repetitions: a source
    /// that an error already shows in its own text is left out.
    #[must_use]
    pub fn chain(&self) -> Vec<String> {
        let mut lines = vec![self.source.to_string()];
        let mut cause = self.source.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !lines.last().is_some_and(|above| above.contains(&text)) {
                lines.push(text);
            }
            cause = error.source();
        }
        lines
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain().join(": "))
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
        assert_eq!(error.chain(), ["failed to make the image", "failed to write `a: disk full`"]);
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
