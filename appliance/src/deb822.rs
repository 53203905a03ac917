//! Paragraphs of `Field: value` lines, the format of Debian's control files,
//! package indices, Release files and `.sources` lists.
//!
//! The parser is streaming, because the index of a release has 50 MB of text, of which only a few
//! fields are kept.

use std::io::{self, BufRead};

/// Maximum line length. The longest real one (a `Provides` of a Rust metapackage) is below 200 KB;
/// an endless line would otherwise fill the memory.
const LINE_MAX_BYTES: u64 = 4 << 20;

/// A paragraph: fields in file order. Names are kept as written and compared without case, as the
/// format requires.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paragraph {
    fields: Vec<(String, String)>,
}

impl Paragraph {
    /// Returns the value of a field. Continuation lines are joined by newlines, each without its
    /// leading space.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

impl Paragraph {
    /// Returns the fields in file order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Reads paragraphs in sequence.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    line: String,
    keep: Option<&'static [&'static str]>,
}

impl<R: BufRead> Reader<R> {
    /// Creates a reader that keeps every field.
    pub(crate) fn new(input: R) -> Self {
        Self { input, line: String::new(), keep: None }
    }

    /// Creates a reader that keeps only the named fields, which avoids most of the work for a
    /// package index.
    pub(crate) fn keeping(input: R, fields: &'static [&'static str]) -> Self {
        Self { input, line: String::new(), keep: Some(fields) }
    }

    /// Reads one line without its end into the buffer; returns `false` at the end of the input.
    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        let mut limited = io::Read::take(&mut self.input, LINE_MAX_BYTES);
        if limited.read_line(&mut self.line)? == 0 {
            return Ok(false);
        }
        if self.line.len() as u64 >= LINE_MAX_BYTES {
            return Err(invalid("a line is longer than 4 MiB"));
        }
        let end = self.line.trim_end_matches(['\n', '\r']).len();
        self.line.truncate(end);
        Ok(true)
    }

    /// Reads the next paragraph; returns `None` at the end of the input.
    ///
    /// # Errors
    /// Fails if the input cannot be read, or if a line is neither a field nor a continuation.
    pub(crate) fn next_paragraph(&mut self) -> io::Result<Option<Paragraph>> {
        let mut paragraph = Paragraph::default();
        let mut seen = false;
        let mut keeping = false;
        while self.read_line()? {
            let line = self.line.as_str();
            if line.starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                if seen {
                    return Ok(Some(paragraph));
                }
                continue;
            }
            if let Some(rest) = line.strip_prefix([' ', '\t']) {
                if !seen {
                    return Err(invalid("a continuation line stands before the first field"));
                }
                if keeping && let Some((_, value)) = paragraph.fields.last_mut() {
                    value.push('\n');
                    value.push_str(rest);
                }
                continue;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(invalid("a line has no colon"));
            };
            seen = true;
            keeping =
                self.keep.is_none_or(|keep| keep.iter().any(|k| k.eq_ignore_ascii_case(name)));
            if keeping {
                paragraph.fields.push((name.to_owned(), value.trim().to_owned()));
            }
        }
        Ok(seen.then_some(paragraph))
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paragraphs_with_continuations_and_comments() {
        let text = "# comment\n\nTypes: deb\n# inner\nURIs: http://a\n http://b\n\n\nPackage: x\r\nDescription:\n first\n .\n";
        let mut reader = Reader::new(text.as_bytes());
        let first = reader.next_paragraph().unwrap().unwrap();
        assert_eq!(first.get("uris"), Some("http://a\nhttp://b"));
        assert_eq!(first.get("Types"), Some("deb"));
        let second = reader.next_paragraph().unwrap().unwrap();
        assert_eq!(second.get("Package"), Some("x"));
        assert_eq!(second.get("Description"), Some("\nfirst\n."));
        assert_eq!(reader.next_paragraph().unwrap(), None);
    }

    #[test]
    fn keeps_only_what_was_asked_for() {
        let text = "Package: x\nDescription: long\n more\nVersion: 1\n";
        let mut reader = Reader::keeping(text.as_bytes(), &["Package", "Version"]);
        let paragraph = reader.next_paragraph().unwrap().unwrap();
        assert_eq!(paragraph.get("Package"), Some("x"));
        assert_eq!(paragraph.get("Version"), Some("1"));
        assert_eq!(paragraph.get("Description"), None);
    }

    #[test]
    fn refuses_what_is_no_control_file() {
        assert!(Reader::new(&b"<html>\n"[..]).next_paragraph().is_err());
        assert!(Reader::new(&b" x\n"[..]).next_paragraph().is_err());
    }
}
