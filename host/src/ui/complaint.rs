//! An error as it is shown.

use std::path::PathBuf;

use checked::{Paragraph, Printable};

use super::failure::Failure;
use crate::error::CommandError;

/// An error with everything that is known about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Complaint {
    /// The error and its causes, outermost first.
    pub(crate) chain: Vec<Paragraph>,
    /// The script that failed or was running.
    pub(crate) failure: Option<Failure>,
    /// What a tool of vbuild's own wrote before it failed.
    pub(crate) tool_output: Vec<Printable>,
    /// What the user can do.
    pub(crate) hints: Vec<Paragraph>,
    /// Where the whole log is.
    pub(crate) log: Option<PathBuf>,
    /// The exit status that vbuild ends with.
    pub(crate) exit_status: u8,
}

impl Complaint {
    /// Of an error, without what was going on around it.
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

    /// As people read it: the error, then indented what is known about it. Nothing in it
    /// steers a terminal, whoever wrote it.
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
