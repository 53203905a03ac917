//! What is wrong with a spec: every complaint has its place and shows it.

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
    /// What.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
}

impl Complaint {
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

/// The known word that an unknown one was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let word = plain(word);
    known
        .iter()
        .map(|candidate| (distance(&word, &plain(candidate)), *candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out, changed or swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let known = ["size", "start", "end", "part-tag", "fs-type"];
        assert_eq!(nearest("strat", &known), Some("start"));
        assert_eq!(nearest("part_tag", &known), Some("part-tag"));
        assert_eq!(nearest("fstype", &known), Some("fs-type"));
        assert_eq!(nearest("colour", &known), None);
    }

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
