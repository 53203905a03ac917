//! Text for terminals and logs: readable numbers, wrapped and coloured lines.

use std::{fmt::Write as _, time::Duration};

/// Number of columns at which messages are wrapped; the same as virt-dib's.
const WRAP_COLUMNS: usize = 76;
/// Wraps words at 76 columns; continuation lines are not indented.
pub(crate) fn wrap(text: &str) -> String {
    let mut wrapped = String::with_capacity(text.len() + 8);
    let mut column = 0;
    for word in text.split(' ') {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > WRAP_COLUMNS {
            wrapped.push('\n');
            column = 0;
        } else if column > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += width;
    }
    wrapped
}

/// Formats a number of bytes for users: `12 B`, `3.4 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10 * 1024 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// Formats a duration for users: `0.3 s`, `12.0 s`, `3 min 07 s`, `1 h 02 min`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", length.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Returns the text with its first letter in upper case, for the beginning of a line.
pub(crate) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// Returns the ending of a noun: empty for a count of one, else `s`.
pub(crate) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// The choice between coloured and plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette {
    /// Whether colours are used.
    pub(crate) on: bool,
}

/// The kind of a text, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Progress: green.
    Progress,
    /// Remarks: magenta.
    Remark,
    /// Warnings: blue, as virt-dib's are.
    Warning,
    /// Errors: red.
    Error,
}

impl Palette {
    /// Colours a text, if colours are used.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.on {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Progress => "32",
            Tone::Remark => "35",
            Tone::Warning => "34",
            Tone::Error => "31",
        };
        let mut painted = String::with_capacity(text.len() + 9);
        let _ = write!(painted, "\u{1b}[{code}m{text}\u{1b}[0m");
        painted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping() {
        let text = "word ".repeat(30);
        assert!(wrap(text.trim()).lines().all(|line| line.chars().count() <= WRAP_COLUMNS));
        assert_eq!(wrap("short text"), "short text");
        let long = "x".repeat(100);
        assert_eq!(wrap(&format!("a {long} b")), format!("a\n{long}\nb"));
    }

    #[test]
    fn sentences_begin_large() {
        assert_eq!(capitalised("create the layout"), "Create the layout");
        assert_eq!(capitalised("ärger"), "Ärger");
        assert_eq!(capitalised(""), "");
    }

    #[test]
    fn numbers() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(bytes(u64::MAX), "16383.9 PiB");
        assert_eq!(duration(Duration::from_millis(1260)), "1.3 s");
        assert_eq!(duration(Duration::from_secs(187)), "3 min 07 s");
        assert_eq!(duration(Duration::from_secs(3725)), "1 h 02 min");
    }
}
