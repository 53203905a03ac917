//! Positions in the files of a build, and faults, which show their source line.

use std::fmt;

/// A position in one of the files of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Index of the file in [`Files`].
    pub file: u32,
    /// Byte offset in the file.
    pub offset: u32,
}

/// Line and column, counted from 1; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the line.
    pub line: usize,
    /// Number of the column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The line and column of a byte offset.
#[must_use]
pub(crate) fn position(text: &str, offset: usize) -> Position {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    Position { line, column: before[start..].chars().count() + 1 }
}

/// Maximum characters of a line in an excerpt: two lines of a wide terminal.
const EXCERPT_CHARS: usize = 160;

/// The line at a position with a mark below, ready to print.
#[must_use]
pub(crate) fn excerpt(text: &str, at: Position) -> String {
    let Some(line) = text.split('\n').nth(at.line - 1) else { return String::new() };
    let line = line.trim_end_matches('\r');
    // Of a very long line, only the part around the position is shown.
    let skipped = at.column.saturating_sub(EXCERPT_CHARS / 2);
    let shown: String = line
        .chars()
        .skip(skipped)
        .take(EXCERPT_CHARS)
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    // Tabs are kept, so that the mark is aligned.
    let lead: String = shown
        .chars()
        .take(at.column - 1 - skipped)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    let number = at.line.to_string();
    let margin = " ".repeat(number.len());
    format!("  {number} | {shown}\n  {margin} | {lead}^")
}

/// A source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The path of the file as it was given.
    pub name: String,
    /// The text of the file.
    pub text: String,
}

/// The files of a build, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files(pub Vec<File>);

impl Files {
    /// The fault as text: position, message, source line and hint.
    #[must_use]
    pub fn show(&self, fault: &Fault) -> String {
        let mut text = String::new();
        let found = fault.at.and_then(|at| Some((self.0.get(at.file as usize)?, at)));
        if let Some((file, at)) = found {
            let position = position(&file.text, at.offset as usize);
            text = format!("{}:{position}: {}\n", file.name, fault.message);
            text.push_str(&excerpt(&file.text, position));
        } else {
            text.push_str(&fault.message);
        }
        if let Some(hint) = &fault.hint {
            text.push_str("\n  hint: ");
            text.push_str(hint);
        }
        text
    }

    /// A position as `FILE:LINE:COLUMN`.
    #[must_use]
    pub fn name_of(&self, at: Place) -> String {
        self.0.get(at.file as usize).map_or_else(String::new, |file| {
            format!("{}:{}", file.name, position(&file.text, at.offset as usize))
        })
    }
}

/// An error or a warning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Its position; `None` if it does not concern a file.
    pub at: Option<Place>,
    /// The message.
    pub message: String,
    /// A hint for the user.
    pub hint: Option<String>,
}

impl Fault {
    pub(crate) fn new(at: impl Into<Option<Place>>, message: impl Into<String>) -> Self {
        Self { at: at.into(), message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the position, unless it is set.
    pub(crate) fn or_at(mut self, at: Place) -> Self {
        self.at.get_or_insert(at);
        self
    }
}

/// A string of a source file, with its position.
#[derive(Debug, Clone)]
pub struct Text {
    /// The characters.
    pub text: String,
    /// The position at which the string starts.
    pub at: Place,
}

impl Text {
    /// The same position with another text.
    pub(crate) fn with(&self, text: String) -> Self {
        Self { text, at: self.at }
    }
}

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_shows_its_line() {
        let file = File { name: "a.b9".into(), text: "Let []\n\t[ é $ ]\n".into() };
        let offset = u32::try_from(file.text.find('$').unwrap()).unwrap();
        let fault = Fault::new(Place { file: 0, offset }, "found `$`").hint("use parentheses");
        assert_eq!(
            Files(vec![file]).show(&fault),
            "a.b9:2:6: found `$`\n  2 | \t[ é $ ]\n    | \t    ^\n  hint: use parentheses"
        );
    }

    #[test]
    fn of_a_long_line_the_place_is_shown() {
        let text = format!("{}$", "x".repeat(1000));
        let shown = excerpt(&text, position(&text, 1000));
        assert!(shown.contains("x$") && shown.len() < 400, "{shown}");
    }
}
