//! Text without terminal control sequences.
//!
//! Text from a guest, a recipe or a third-party file is shown to the user in many places. Escape
//! sequences in it could set the window's title, write to the clipboard (OSC 52), overwrite earlier
//! lines, or reverse the writing direction. [`Printable`] is the only type that carries such text
//! to a renderer.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    iter::Peekable,
    str::Chars,
};

use serde::{Deserialize, Serialize};

/// Maximum length; longer text is truncated. A terminal shows no more, and a guest that never sends
/// a newline must not fill memory.
pub const PRINTABLE_MAX_CHARS: usize = 4096;

/// Spaces that replace a tab; the terminal column of the text is unknown.
const TAB_COLUMNS: usize = 4;

/// One line of text without terminal control: no control characters (C0, DEL, C1), no escape
/// sequences, no line or paragraph separators, no marks that change the writing direction; at most
/// [`PRINTABLE_MAX_CHARS`] characters and a `…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Printable(String);

impl Printable {
    /// Converts one line of a program's output. After a carriage return only the last version of
    /// the line is kept, as a terminal shows it.
    #[must_use]
    pub fn output_line(line: &str) -> Self {
        let line = line.trim_end_matches(['\r', '\n']);
        Self::message(line.rsplit('\r').next().unwrap_or_default())
    }

    /// Converts the lines of a program's output, each by [`Printable::output_line`].
    pub fn output_lines(text: &str) -> impl Iterator<Item = Self> + '_ {
        text.lines().map(Self::output_line)
    }

    /// Converts a message or a name. Line breaks and carriage returns become spaces, so that text
    /// after one cannot hide text before it.
    #[must_use]
    pub fn message(text: &str) -> Self {
        Self(clean(text).into_owned())
    }

    /// Converts the lines of a message.
    pub fn lines(text: &str) -> impl Iterator<Item = Self> + '_ {
        text.lines().map(Self::message)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Several lines of [`Printable`] text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paragraph(Vec<Printable>);

impl Paragraph {
    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[Printable] {
        &self.0
    }
}

impl From<&str> for Paragraph {
    fn from(text: &str) -> Self {
        Self(Printable::lines(text).collect())
    }
}

impl fmt::Display for Paragraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{line}")?;
        }
        Ok(())
    }
}

/// Escapes characters in JSON that would control a terminal. The value is unchanged: such
/// characters occur in strings only, and JSON escapes those below a space itself.
#[must_use]
pub fn printable_json(json: &str) -> String {
    let mut clean = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || is_harmless(c) {
            clean.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(clean, "\\u{:04x}", u32::from(c));
        }
    }
    clean
}

fn clean(text: &str) -> Cow<'_, str> {
    if text.len() <= PRINTABLE_MAX_CHARS && text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len().min(PRINTABLE_MAX_CHARS));
    let mut count = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if count >= PRINTABLE_MAX_CHARS {
            clean.push('…');
            break;
        }
        match c {
            '\u{1b}' | '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}'..='\u{9f}' => {
                skip_escape(c, &mut chars);
                continue;
            }
            '\t' => {
                let spaces = TAB_COLUMNS.min(PRINTABLE_MAX_CHARS - count);
                clean.extend(std::iter::repeat_n(' ', spaces));
                count += spaces;
                continue;
            }
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => clean.push(' '),
            c if is_harmless(c) => clean.push(c),
            _ => continue,
        }
        count += 1;
    }
    Cow::Owned(clean)
}

fn is_harmless(c: char) -> bool {
    !c.is_control() && !steers_direction(c) && !matches!(c, '\u{2028}' | '\u{2029}')
}

/// The controls of the bidirectional algorithm (UAX 9): ALM, LRM, RLM, embeddings, overrides and
/// isolates.
fn steers_direction(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Skips the rest of an escape sequence (ECMA-48: CSI up to its final byte, string sequences up to
/// their terminator, otherwise intermediate bytes and one final byte). The introducer is ESC, or
/// the C1 character equivalent to ESC and a second one.
fn skip_escape(introducer: char, chars: &mut Peekable<Chars<'_>>) {
    let kind = match introducer {
        '\u{1b}' => chars.next(),
        '\u{9b}' => Some('['),
        '\u{9d}' => Some(']'),
        _ => Some('P'),
    };
    match kind {
        Some('[') => {
            for c in chars.by_ref() {
                if ('\u{40}'..='\u{7e}').contains(&c) {
                    break;
                }
            }
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            // An unterminated sequence would hide the rest of the line.
            if !chars.clone().any(ends_string) {
                return;
            }
            while chars.next_if(|c| !ends_string(*c)).is_some() {}
            if chars.next_if(|c| matches!(c, '\u{7}' | '\u{9c}')).is_none()
                && chars.clone().take(2).eq(['\u{1b}', '\\'])
            {
                chars.nth(1);
            }
        }
        Some(' '..='/') => {
            while chars.next_if(|c| (' '..='/').contains(c)).is_some() {}
            chars.next();
        }
        _ => {}
    }
}

/// The end of a control string: BEL, ST, or the start of another sequence.
fn ends_string(c: char) -> bool {
    matches!(c, '\u{7}' | '\u{1b}' | '\u{90}' | '\u{98}' | '\u{9b}'..='\u{9f}')
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl From<&str> for Printable {
    fn from(text: &str) -> Self {
        Self::message(text)
    }
}

impl From<String> for Printable {
    fn from(text: String) -> Self {
        match clean(&text) {
            Cow::Borrowed(_) => Self(text),
            Cow::Owned(clean) => Self(clean),
        }
    }
}

impl From<Printable> for String {
    fn from(text: Printable) -> Self {
        text.0
    }
}

impl AsRef<str> for Printable {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for Printable {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Printable {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> String {
        Printable::output_line(text).into()
    }

    fn message(text: &str) -> String {
        Printable::message(text).into()
    }

    #[test]
    fn escape_sequences_are_removed() {
        assert_eq!(line("plain ‘text’"), "plain ‘text’");
        assert_eq!(line("\u{1b}[31mred\u{1b}[0m"), "red");
        assert_eq!(line("\u{1b}]8;;http://x\u{1b}\\link"), "link");
        assert_eq!(line("\u{1b}(Bb"), "b");
        assert_eq!(line("\u{1b}cx"), "x");
        assert_eq!(line("a\u{8}\u{0}\u{7f}b"), "ab");
        assert_eq!(line("cut off \u{1b}["), "cut off ");
    }

    #[test]
    fn neither_the_title_nor_the_clipboard_is_set() {
        assert_eq!(message("\u{1b}]0;title\u{7}a"), "a");
        assert_eq!(message("\u{1b}]52;c;cm0gLXJmIH4K\u{7}a"), "a");
        assert_eq!(message("\u{1b}]52;c;cm0gLXJmIH4K\u{1b}\\a"), "a");
        assert_eq!(message("\u{1b}Pq#0;2;0;0;0\u{1b}\\a"), "a");
        // An unterminated sequence hides nothing, and later text cannot terminate it.
        assert_eq!(message("\u{1b}]52;c;cm0 was refused"), "52;c;cm0 was refused");
        assert_eq!(message("\u{1b}]0;t\u{1b}[1ma\u{9d}b"), "ab");
    }

    #[test]
    fn c1_introduces_as_esc_does() {
        assert_eq!(message("\u{9b}2Jy"), "y");
        assert_eq!(message("\u{9d}52;c;cm0gLXJmIH4K\u{9c}y"), "y");
        assert_eq!(message("\u{90}q#0\u{9c}y"), "y");
        assert_eq!(message("a\u{85}b\u{84}c"), "a bc");
    }

    #[test]
    fn the_direction_of_writing_stays() {
        assert_eq!(line("a\u{202e}b\u{2066}c\u{61c}d\u{200f}e"), "abcde");
    }

    #[test]
    fn of_a_line_of_output_the_last_version_is_kept() {
        assert_eq!(line("10%\r50%\r100%"), "100%");
        assert_eq!(line("dos line\r"), "dos line");
        assert_eq!(line("a\tb"), "a    b");
    }

    #[test]
    fn a_message_hides_nothing_by_line_breaks() {
        assert_eq!(message("evil\rharmless"), "evil harmless");
        assert_eq!(message("evil\nerror: harmless\u{2028}x"), "evil error: harmless x");
        let lines: Vec<_> = Printable::lines("a\r\nb\rc\n").collect();
        assert_eq!(lines, ["a", "b c"]);
    }

    #[test]
    fn json_stays_the_same_value() {
        let value =
            serde_json::json!({"a": "\u{9b}2J \u{202e} ü \u{7f} \u{1b}]0;x\u{7}", "b": [1]});
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let clean = printable_json(&text);
            assert!(clean.chars().all(|c| c == '\n' || is_harmless(c)), "{clean}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&clean).unwrap(), value);
        }
    }

    #[test]
    fn a_paragraph_keeps_its_lines() {
        let text = Paragraph::from("a\u{1b}]52;c;x\u{7}\nb\rc");
        assert_eq!(text.lines(), ["a", "b c"]);
        assert_eq!(text.to_string(), "a\nb c");
    }

    #[test]
    fn long_lines_are_cut() {
        for text in ["x", "ä", "\t"] {
            let clean = line(&text.repeat(PRINTABLE_MAX_CHARS + 10));
            assert!(clean.ends_with('…'));
        }
        let clean = line(&"x".repeat(PRINTABLE_MAX_CHARS + 10));
        assert_eq!(clean.chars().count(), PRINTABLE_MAX_CHARS + 1);
        assert_eq!(line(&"ä".repeat(PRINTABLE_MAX_CHARS)).chars().count(), PRINTABLE_MAX_CHARS);
    }

    #[test]
    fn deserialised_text_is_cleaned_too() {
        let json = serde_json::json!("a\u{1b}]52;c;x\u{7}b");
        assert_eq!(serde_json::from_value::<Printable>(json).unwrap(), "ab");
    }

    proptest! {
        #[test]
        fn nothing_that_steers_is_left(text in ".*|[\u{0}-\u{ff}\u{2000}-\u{206f}a]{0,200}") {
            for made in [Printable::message(&text), Printable::output_line(&text)] {
                prop_assert!(made.as_str().chars().all(is_harmless), "{made:?}");
                prop_assert_eq!(&Printable::message(made.as_str()), &made);
            }
        }
    }
}
