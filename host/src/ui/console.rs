//! The standard streams, for verbs whose answer is text.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use checked::{Paragraph, Printable, printable_json};

use super::{
    complaint::Complaint,
    text::{Palette, Tone},
};
use crate::error::{CommandError, Kind};

/// What is known about the standard streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Console {
    /// Whether standard output is a terminal.
    pub(crate) stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub(crate) stderr_is_terminal: bool,
    /// Whether a terminal may be coloured: unless `NO_COLOR` is set or it is
    /// `TERM=dumb`.
    pub(crate) colours: bool,
}

impl Console {
    /// Looks at the streams of this process and at its environment.
    pub(crate) fn of_process() -> Self {
        let stdout_is_terminal = std::io::stdout().is_terminal();
        let stderr_is_terminal = std::io::stderr().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { stdout_is_terminal, stderr_is_terminal, colours: !set("NO_COLOR") && !dumb }
    }

    /// The streams of a build in which a shell may open: that needs the terminal
    /// for itself, so nothing is drawn there.
    pub(crate) fn shared_with_shell(self, shell: bool) -> Self {
        Self { stderr_is_terminal: self.stderr_is_terminal && !shell, ..self }
    }

    /// Writes text to standard output, without anything in its lines that would steer a
    /// terminal. A reader that has gone away, such as `head`, is no failure.
    ///
    /// # Errors
    /// When the text cannot be written: an answer that was not delivered is a failure.
    pub(crate) fn print(&self, text: &str) -> Result<(), CommandError> {
        let mut clean = Paragraph::from(text).to_string();
        if text.ends_with('\n') {
            clean.push('\n');
        }
        self.print_own(&clean)
    }

    /// Writes a text of vbuild itself to standard output as it is: help, completions.
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

    /// Writes JSON to standard output; what would steer a terminal is escaped.
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
