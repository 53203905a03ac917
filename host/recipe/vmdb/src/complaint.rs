//! Complaints about a spec: each has a position and shows the line.

pub(crate) use yaml_tree::nearest;

use std::fmt;

use crate::yaml::Position;

/// The spec's text, for messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// The name of the file: a path, or `standard input`.
    pub name: String,
    /// The text of the spec.
    pub text: String,
}

impl Source {
    /// The line at a position with a mark below, ready to print.
    #[must_use]
    pub fn excerpt(&self, at: Position) -> String {
        let Some(line) = at.line.checked_sub(1).and_then(|n| self.text.lines().nth(n)) else {
            return String::new();
        };
        let number = at.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs are kept, so that the mark is aligned.
        let lead: String = line
            .chars()
            .take(at.column.saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        format!("  {number} | {line}\n  {margin} | {lead}^")
    }
}

/// An error or a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// The position in the spec to which the complaint refers.
    pub at: Position,
    /// The step, as `step 4 (mkpart)`; `None` for the file as a whole.
    pub step: Option<String>,
    /// The message.
    pub message: String,
    /// A remedy for the user.
    pub hint: Option<String>,
}

impl Complaint {
    /// Marks a fault that vmdb2 ignores: the hint names `--lenient`.
    pub(crate) fn can_be_passed_over(mut self) -> Self {
        let way = "`--lenient` takes the spec as vmdb2 does, and only warns";
        self.hint = Some(match self.hint {
            Some(hint) => format!("{hint}; {way}"),
            None => way.to_owned(),
        });
        self
    }

    /// The complaint as text, with its source line.
    #[must_use]
    pub fn show(&self, source: &Source) -> String {
        let mut text = format!("{}:{}: {self}", source.name, self.at);
        let excerpt = source.excerpt(self.at);
        if !excerpt.is_empty() {
            text.push('\n');
            text.push_str(&excerpt);
        }
        if let Some(hint) = &self.hint {
            text.push_str("\n  hint: ");
            text.push_str(hint);
        }
        text
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Some(step) => write!(f, "{step}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// All errors in a spec, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The spec.
    pub source: Source,
    /// The errors; never empty.
    pub complaints: Vec<Complaint>,
}

impl SpecError {
    /// Sorts complaints by position.
    #[must_use]
    pub fn new(source: &Source, mut complaints: Vec<Complaint>) -> Self {
        complaints.sort_by_key(|complaint| complaint.at);
        Self { source: source.clone(), complaints }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> =
            self.complaints.iter().map(|complaint| complaint.show(&self.source)).collect();
        f.write_str(&shown.join("\n"))
    }
}

impl std::error::Error for SpecError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_shows_its_line() {
        let source = Source { name: "a.vmdb".into(), text: "steps:\n  - mkimg: x\n".into() };
        let complaint = Complaint {
            at: Position { line: 2, column: 5 },
            step: Some("step 1 (mkimg)".into()),
            message: "lacks the key `size`".into(),
            hint: Some("say how large".into()),
        };
        assert_eq!(
            complaint.show(&source),
            "a.vmdb:2:5: step 1 (mkimg): lacks the key `size`\n  2 |   - mkimg: x\n    |     ^\n  hint: say how large"
        );
    }
}
