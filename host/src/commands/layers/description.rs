//! Parses and compares the descriptions of images that `manifest.py` writes in a machine. Both are
//! read as streams.
//!
//! ```text
//!   type TAB mode TAB owner TAB group TAB size TAB digest or target TAB path
//!   …                                          each directory before what is in it
//!   package TAB name TAB architecture TAB version
//!   …                                          in order, too
//!   end
//! ```
//!
//! The entries of a description are in order, so one pass over both descriptions finds the
//! differences. Memory is needed only for one line of each and for the differences that are listed.
//! A guest made the descriptions: one that is out of order, truncated or has too long a line is
//! refused.

use std::{
    cmp::Ordering,
    io::{self, BufRead, Read},
};

/// The maximum length of a line in bytes: a path and a link's target of 4095 bytes each, with every
/// byte escaped as four, and some numbers.
const LINE_MAX_BYTES: u64 = 64 << 10;
/// The maximum number of listed differences of one kind; all are counted.
pub(super) const LISTED_MAX: usize = 10_000;
/// The maximum text of the listed differences of one kind, in bytes: enough for ten thousand with
/// long paths.
const LISTED_MAX_BYTES: usize = 8 << 20;
/// The maximum number of versions of one package. No real system has that many kernels.
const VERSIONS_MAX: usize = 64;

/// The error for a description that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DescriptionError {
    /// The file cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// A line does not have the form of a description.
    #[error("line {line}: {reason}")]
    Bad {
        /// The number of the line, from 1.
        line: u64,
        /// What is wrong with the line.
        reason: &'static str,
    },
}

/// A file or package that is in only one of the descriptions, or differs between them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) name: String,
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

/// The differences of one kind: files or packages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// The first differences in the order of the descriptions; [`compare`] sorts them by name.
    pub(super) listed: Vec<Difference>,
    /// The number of all differences, including those that are not listed.
    pub(super) count: u64,
    bytes: usize,
}

impl Differences {
    fn add(&mut self, difference: Difference) {
        self.count += 1;
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes = difference.name.len() + length(&difference.before) + length(&difference.after);
        if self.listed.len() < LISTED_MAX && self.bytes + bytes <= LISTED_MAX_BYTES {
            self.bytes += bytes;
            self.listed.push(difference);
        }
    }
}

/// The number of files of an image, and the sum of their sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// The result of a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) packages: Differences,
    pub(super) files: Differences,
    pub(super) totals: [Total; 2],
}

/// The sort key of an item in a description: files come before packages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// The components of the path.
    File(Vec<Vec<u8>>),
    /// The name and the architecture.
    Package(String, String),
}

/// A file, or a package with all its versions.
#[derive(Debug)]
struct Item {
    key: Key,
    name: String,
    facts: String,
}

/// Compares two descriptions. An error comes with the index of its description, 0 or 1.
///
/// # Errors
/// Fails if a description is truncated, out of order or cannot be read.
pub(super) fn compare(
    one: impl BufRead,
    other: impl BufRead,
) -> Result<Comparison, (usize, DescriptionError)> {
    let (mut one, mut other) = (Description::new(one), Description::new(other));
    let mut comparison = Comparison::default();
    let mut left = one.next().map_err(|error| (0, error))?;
    let mut right = other.next().map_err(|error| (1, error))?;
    loop {
        let order = match (&left, &right) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.key.cmp(&right.key),
        };
        let before = if order.is_le() { left.take() } else { None };
        let after = if order.is_ge() { right.take() } else { None };
        if before.is_some() {
            left = one.next().map_err(|error| (0, error))?;
        }
        if after.is_some() {
            right = other.next().map_err(|error| (1, error))?;
        }
        comparison.note(before, after);
    }
    comparison.totals = [one.total, other.total];
    for differences in [&mut comparison.packages, &mut comparison.files] {
        differences.listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(comparison)
}

impl Comparison {
    fn note(&mut self, before: Option<Item>, after: Option<Item>) {
        let Some(item) = before.as_ref().or(after.as_ref()) else { return };
        let (is_file, name) = (matches!(item.key, Key::File(_)), item.name.clone());
        let (before, after) = (before.map(|item| item.facts), after.map(|item| item.facts));
        if before != after {
            let differences = if is_file { &mut self.files } else { &mut self.packages };
            differences.add(Difference { name, before, after });
        }
    }
}

/// A description that is being read.
struct Description<R> {
    lines: R,
    line: u64,
    total: Total,
    last: Option<Key>,
    /// An item that was read ahead, to see whether it was another version of the package.
    ahead: Option<Item>,
    ended: bool,
}

impl<R: BufRead> Description<R> {
    fn new(lines: R) -> Self {
        Self { lines, line: 0, total: Total::default(), last: None, ahead: None, ended: false }
    }

    fn bad(&self, reason: &'static str) -> DescriptionError {
        DescriptionError::Bad { line: self.line, reason }
    }

    /// Returns the next file, or the next package with all its versions; `None` at the end.
    fn next(&mut self) -> Result<Option<Item>, DescriptionError> {
        let read = match self.ahead.take() {
            Some(item) => Some(item),
            None => self.read()?,
        };
        let Some(mut item) = read else { return Ok(None) };
        if self.last.as_ref().is_some_and(|last| *last >= item.key) {
            return Err(self.bad("it is out of order"));
        }
        self.last = Some(item.key.clone());
        let mut versions = 1;
        while matches!(item.key, Key::Package(..)) {
            match self.read()? {
                Some(more) if more.key == item.key => {
                    versions += 1;
                    if versions > VERSIONS_MAX {
                        return Err(self.bad("too many versions of one package"));
                    }
                    item.facts.push_str(", ");
                    item.facts.push_str(&more.facts);
                }
                other => {
                    self.ahead = other;
                    break;
                }
            }
        }
        Ok(Some(item))
    }

    /// Reads a line, and returns the item that it describes; `None` for the last line.
    fn read(&mut self) -> Result<Option<Item>, DescriptionError> {
        if self.ended {
            return Ok(None);
        }
        self.line += 1;
        let mut line = Vec::new();
        (&mut self.lines).take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(self.bad("the description is not whole"));
        }
        let line = String::from_utf8(line).map_err(|_| self.bad("it is no text"))?;
        if line == "end" {
            self.ended = true;
            return Ok(None);
        }
        let item = match line.strip_prefix("package\t") {
            Some(package) => read_package(package),
            None => read_file(&line, &mut self.total),
        };
        item.map(Some).ok_or_else(|| self.bad("it describes nothing"))
    }
}

fn read_package(text: &str) -> Option<Item> {
    let (named, version) = text.rsplit_once('\t')?;
    let (name, architecture) = named.split_once('\t').unwrap_or((named, ""));
    Some(Item {
        key: Key::Package(name.to_owned(), architecture.to_owned()),
        name: named.replace('\t', ":"),
        facts: version.to_owned(),
    })
}

fn read_file(line: &str, total: &mut Total) -> Option<Item> {
    let (facts, path) = line.rsplit_once('\t')?;
    total.files += 1;
    total.bytes = total.bytes.saturating_add(size(facts));
    let components = unescaped(path)?;
    let components = components.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
    Some(Item { key: Key::File(components), name: path.to_owned(), facts: facts.to_owned() })
}

/// Returns the size from the facts about a file, in bytes; 0 if it is not a number.
pub(super) fn size(facts: &str) -> u64 {
    facts.split('\t').nth(4).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Decodes a path in which some bytes are written as `\xNN`.
fn unescaped(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((plain, escaped)) = rest.split_once("\\x") {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(escaped.get(..2)?, 16).ok()?);
        rest = &escaped[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        compare(text.as_bytes(), &b"end\n"[..]).unwrap_err().1.to_string()
    }

    fn file(path: &str) -> String {
        format!("f\t0644\t0\t0\t5\taa\t{path}\n")
    }

    #[test]
    fn order_is_that_of_directories_and_of_bytes() {
        let in_order = ["/a", "/a/x", "/a-b", "/b\\x0a", "/b!", "/\u{e9}"].map(file).concat();
        let found = compare(format!("{in_order}end\n").as_bytes(), &b"end\n"[..]).unwrap();
        assert_eq!(found.files.count, 6);
        assert_eq!(found.totals, [Total { files: 6, bytes: 30 }, Total::default()]);
        assert_eq!(refused(&["/b", "/a"].map(file).concat()), "line 2: it is out of order");
        assert_eq!(refused(&["/a", "/a"].map(file).concat()), "line 2: it is out of order");
    }

    #[test]
    fn what_is_not_whole_or_no_description_is_refused() {
        assert_eq!(refused(&file("/a")), "line 2: the description is not whole");
        assert_eq!(refused("end"), "line 1: the description is not whole");
        assert_eq!(refused("x\nend\n"), "line 1: it describes nothing");
        assert_eq!(refused(&file("/\\xzz")), "line 1: it describes nothing");
        assert_eq!(refused(&file(&"a".repeat(1 << 17))), "line 1: the description is not whole");
        let versions = "package\tlinux\tall\t1\n".repeat(VERSIONS_MAX + 1);
        assert_eq!(refused(&versions), "line 65: too many versions of one package");
    }

    #[test]
    fn all_versions_of_a_package_are_compared() {
        let one = "package\tlinux\tall\t1\npackage\tlinux\tall\t2\nend\n";
        let other = "package\tlinux\tall\t2\npackage\tlinux\tall\t3\nend\n";
        let found = compare(one.as_bytes(), other.as_bytes()).unwrap().packages.listed;
        let (before, after) = (Some("1, 2".to_owned()), Some("2, 3".to_owned()));
        assert_eq!(found, [Difference { name: "linux:all".into(), before, after }]);
    }

    #[test]
    fn memory_is_for_what_is_listed() {
        /// Lines of a description that is made while it is read.
        struct Lines(u64, Vec<u8>, usize);
        impl Read for Lines {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.2 == self.1.len() {
                    self.0 += 1;
                    self.2 = 0;
                    self.1 = match self.0 {
                        1..100_000 => {
                            let path = format!("/{:09}{}", self.0, "a".repeat(4000));
                            format!("f\t0644\t0\t0\t5\taa\t{path}\n").into_bytes()
                        }
                        100_000 => b"end\n".to_vec(),
                        _ => Vec::new(),
                    };
                }
                let count = buffer.len().min(self.1.len() - self.2);
                buffer[..count].copy_from_slice(&self.1[self.2..self.2 + count]);
                self.2 += count;
                Ok(count)
            }
        }
        let lines = || io::BufReader::new(Lines(0, Vec::new(), 0));
        let found = memory_bound::within(2 * LISTED_MAX_BYTES as u64, || {
            compare(lines(), &b"end\n"[..]).unwrap()
        });
        assert_eq!(found.files.count, 99_999);
        assert!((1000..LISTED_MAX).contains(&found.files.listed.len()));
    }
}
