//! An error in the form in which it is shown.

use std::path::PathBuf;

use checked::{Paragraph, Printable};

use super::failure::Failure;
use crate::error::CommandError;

/// An error with all details that are shown with it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Complaint {
    /// The error and its causes, outermost first.
    pub(crate) chain: Vec<Paragraph>,
    /// The script that failed or was running.
    pub(crate) failure: Option<Failure>,
    /// The output of a failed tool of vbuild's own.
    pub(crate) tool_output: Vec<Printable>,
    /// The hints on what the user can do.
    pub(crate) hints: Vec<Paragraph>,
    /// The path of the whole log.
    pub(crate) log: Option<PathBuf>,
    /// The exit status that vbuild ends with.
    pub(crate) exit_status: u8,
}

impl Complaint {
    /// Creates the complaint about an error, without a script and a log.
    pub(crate) fn of(error: &CommandError) -> Self {
        let output = error.tool_output().unwrap_or_default();
        Self {
            chain: error.causes().iter().map(|text| text.as_str().into()).collect(),
            failure: None,
            tool_output: Printable::output_lines(output).collect(),
            hints: error.hints.iter().map(|hint| hint.as_str().into()).collect(),
            log: None,
            exit_status: error.exit_status(),
        }
    }

    /// Returns the lines for the user: the error, then its details, indented. They contain nothing
    /// that controls a terminal, whatever their source.
    pub(crate) fn lines(&self) -> Vec<Printable> {
        let mut lines: Vec<Printable> = Vec::new();
        for (index, text) in self.chain.iter().enumerate() {
            let begin = if index == 0 { "" } else { "  because: " };
            let (first, more) = text.lines().split_first().unzip();
            let first = first.map_or("", Printable::as_str);
            lines.push(format!("{begin}{first}").into());
            lines.extend(more.into_iter().flatten().cloned());
        }
        if let Some(failure) = &self.failure {
            lines.extend(failure.lines().into_iter().map(|line| format!("  {line}").into()));
        }
        lines.extend(self.tool_output.iter().map(|line| format!("    | {line}").into()));
        if let Some(log) = &self.log {
            lines.push(format!("  the whole log: {}", log.display()).into());
        }
        for hint in &self.hints {
            let (first, more) = hint.lines().split_first().unzip();
            lines.push(format!("  hint: {}", first.map_or("", Printable::as_str)).into());
            lines.extend(more.into_iter().flatten().map(|part| format!("    {part}").into()));
        }
        lines
    }
}
