//! The standard streams, for verbs that answer with text.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use checked::{Paragraph, Printable, printable_json};

use super::{
    complaint::Complaint,
    text::{Palette, Tone},
};
use crate::error::{CommandError, Kind};

/// The properties of the standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Console {
    /// Whether standard output is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub(crate) stderr_is_terminal: bool,
    /// Whether terminals may be coloured: `NO_COLOR` is not set, and `TERM` is not `dumb`.
    pub(crate) colours: bool,
}

impl Console {
    /// Determines the properties of this process's streams, and reads its environment.
    pub(crate) fn of_process() -> Self {
        let stdout_is_terminal = std::io::stdout().is_terminal();
        let stderr_is_terminal = std::io::stderr().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { stdout_is_terminal, stderr_is_terminal, colours: !set("NO_COLOR") && !dumb }
    }

    /// Returns the streams of a build in which a shell may open. The shell needs the terminal for
    /// itself, so no live view is drawn there.
    pub(crate) fn shared_with_shell(self, shell: bool) -> Self {
        Self { stderr_is_terminal: self.stderr_is_terminal && !shell, ..self }
    }

    /// Writes text to standard output, without characters that would control a terminal. A reader
    /// that has closed the pipe, such as `head`, is not an error.
    ///
    /// # Errors
    /// Fails if the text cannot be written: an answer that was not delivered is a failure.
    pub(crate) fn print(&self, text: &str) -> Result<(), CommandError> {
        let mut clean = Paragraph::from(text).to_string();
        if text.ends_with('\n') {
            clean.push('\n');
        }
        self.print_own(&clean)
    }

    /// Writes vbuild's own text, such as help and completions, to standard output unchanged.
    pub(crate) fn print_own(&self, text: &str) -> Result<(), CommandError> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(CommandError::new(Kind::Host, error).context("cannot write to standard output"))
            }
            _ => Ok(()),
        }
    }

    /// Writes a warning to standard error.
    pub(crate) fn print_warning(&self, warning: &str) {
        let warning = Printable::message(warning);
        let _ = writeln!(std::io::stderr().lock(), "vbuild: warning: {warning}");
    }

    /// Writes JSON to standard output, with escapes for characters that would control a terminal.
    pub(crate) fn print_json(&self, json: &str) -> Result<(), CommandError> {
        self.print_own(&printable_json(json))
    }

    /// Writes an error to standard error.
    pub(crate) fn print_error(&self, error: &CommandError) {
        let complaint = Complaint::of(error);
        let palette = Palette { on: self.stderr_is_terminal && self.colours };
        let mut err = std::io::stderr().lock();
        for (number, line) in complaint.lines().into_iter().enumerate() {
            let line = match number {
                0 => palette.paint(Tone::Error, &format!("vbuild: error: {line}")),
                _ => line.into(),
            };
            let _ = writeln!(err, "{line}");
        }
    }
}
