//! Words for terminals and logs: what a guest wrote made harmless, and numbers
//! made readable.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

/// Columns at which messages are wrapped; virt-dib's.
const WRAP_COLUMNS: usize = 76;
/// Longer lines of output are cut where people read them: a terminal shows no
/// more, and a guest that never sends a newline must not fill memory.
const LINE_MAX_CHARS: usize = 4096;

/// Removes what could steer a terminal from a line that a guest wrote: escape
/// sequences, other control characters, and the marks that turn the direction of
/// writing around. After a carriage return only the last version of the line is
/// kept, which is what a terminal would have shown.
#[must_use]
pub fn sanitise(line: &str) -> Cow<'_, str> {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or_default();
    let harmless = |c: char| !c.is_control() && !steers_direction(c);
    if line.len() <= LINE_MAX_CHARS && line.chars().all(harmless) {
        return Cow::Borrowed(line);
    }
    let mut clean = String::with_capacity(line.len().min(LINE_MAX_CHARS));
    let mut chars = line.chars().peekable();
    let mut count = 0;
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' | '\u{9b}' => skip_escape(c, &mut chars),
            '\t' => clean.push_str("    "),
            c if harmless(c) => clean.push(c),
            _ => {}
        }
        count += 1;
        if count >= LINE_MAX_CHARS && chars.peek().is_some() {
            clean.push('…');
            break;
        }
    }
    Cow::Owned(clean)
}

fn steers_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Skips the rest of an escape sequence (ECMA-48: CSI up to its final byte, the
/// string types up to their terminator, else intermediate bytes and one final).
fn skip_escape(introducer: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let kind = if introducer == '\u{9b}' { Some('[') } else { chars.next() };
    match kind {
        Some('[') => {
            for c in chars.by_ref() {
                if ('\u{40}'..='\u{7e}').contains(&c) {
                    break;
                }
            }
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                match c {
                    '\u{7}' | '\u{9c}' => break,
                    '\u{1b}' => {
                        chars.next_if_eq(&'\\');
                        break;
                    }
                    _ => {}
                }
            }
        }
        Some(' '..='/') => {
            while chars.next_if(|c| (' '..='/').contains(c)).is_some() {}
            chars.next();
        }
        _ => {}
    }
}

/// Wraps words at 76 columns; lines that follow are not indented.
#[must_use]
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

/// Bytes for people: `12 B`, `3.4 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
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

/// A duration for people: `0.3 s`, `12.0 s`, `3 min 07 s`, `1 h 02 min`.
#[must_use]
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", length.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// With its first letter large, as the beginning of a line.
#[must_use]
pub(crate) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// `s` unless there is exactly one.
#[must_use]
pub fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Colours, or their absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette {
    /// Whether to colour at all.
    pub on: bool,
}

/// What a text is, which decides its colour.
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
    /// Colours a text.
    #[must_use]
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
    fn escape_sequences_are_removed() {
        assert_eq!(sanitise("plain ‘text’"), "plain ‘text’");
        assert_eq!(sanitise("\u{1b}[31mred\u{1b}[0m"), "red");
        assert_eq!(sanitise("\u{1b}]0;title\u{7}a"), "a");
        assert_eq!(sanitise("\u{1b}]8;;http://x\u{1b}\\link"), "link");
        assert_eq!(sanitise("\u{1b}(Bb"), "b");
        assert_eq!(sanitise("\u{1b}cx"), "x");
        assert_eq!(sanitise("\u{9b}2Jy"), "y");
        assert_eq!(sanitise("a\u{8}\u{0}\u{7f}b"), "ab");
        assert_eq!(sanitise("a\u{202e}b"), "ab");
        assert_eq!(sanitise("cut off \u{1b}["), "cut off ");
    }

    #[test]
    fn only_the_last_version_of_a_line_is_kept() {
        assert_eq!(sanitise("10%\r50%\r100%"), "100%");
        assert_eq!(sanitise("dos line\r"), "dos line");
        assert_eq!(sanitise("a\tb"), "a    b");
    }

    #[test]
    fn long_lines_are_cut() {
        let long = "x".repeat(LINE_MAX_CHARS + 10);
        let clean = sanitise(&long);
        assert_eq!(clean.chars().count(), LINE_MAX_CHARS + 1);
        assert!(clean.ends_with('…'));
    }

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
