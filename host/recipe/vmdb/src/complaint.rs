//! What is wrong with a spec: every complaint has its place and shows it.

pub(crate) use yaml_tree::nearest;

use std::fmt;

use crate::yaml::Position;

/// The spec's text, for messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// What the file is called: a path, or `standard input`.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl Source {
    /// The line at a place with a mark below, ready to print.
    #[must_use]
    pub fn excerpt(&self, at: Position) -> String {
        let Some(line) = at.line.checked_sub(1).and_then(|n| self.text.lines().nth(n)) else {
            return String::new();
        };
        let number = at.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the mark stands below what it means.
        let lead: String = line
            .chars()
            .take(at.column.saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        format!("  {number} | {line}\n  {margin} | {lead}^")
    }
}

/// One thing that is wrong, or worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Where in the spec.
    pub at: Position,
    /// The step, as `step 4 (mkpart)`; none for the file as a whole.
    pub step: Option<String>,
    /// The message.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
}

impl Complaint {
    /// About something that vmdb2 passes over in silence: the option that does so too is named.
    pub(crate) fn can_be_passed_over(mut self) -> Self {
        let way = "`--lenient` takes the spec as vmdb2 does, and only warns";
        self.hint = Some(match self.hint {
            Some(hint) => format!("{hint}; {way}"),
            None => way.to_owned(),
        });
        self
    }

    /// The complaint as text, with the line that it is about.
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

/// Everything that is wrong with a spec, in order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The spec.
    pub source: Source,
    /// What is wrong; never empty.
    pub complaints: Vec<Complaint>,
}

impl SpecError {
    /// Complaints about a spec, in order of their places.
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
