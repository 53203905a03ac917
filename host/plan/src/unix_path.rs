//! Paths and link targets as Linux has them: any bytes except NUL, not only UTF-8.
//!
//! A plan is JSON, whose strings are Unicode. So each byte that is not part of valid UTF-8 is
//! escaped as NUL and two hexadecimal digits: the Latin-1 name `café` becomes `"caf\u0000e9"`.
//! Names do not contain NUL, so every UTF-8 name is encoded as itself, and the encoding is
//! reversible.

use std::{
    borrow::{Borrow, Cow},
    ffi::{OsStr, OsString},
    fmt::{self, Write as _},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// The error for a text that is not a valid encoding of a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` has a NUL without two hexadecimal digits behind it", .0.escape_default())]
pub struct InvalidEscape(pub String);

/// A path, or the target of a symbolic link, in the encoding of this module.
///
/// It is compared and ordered by its encoding; for UTF-8 that is the order of the bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnixPath(String);

impl UnixPath {
    /// Encodes any bytes.
    #[must_use]
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        let mut text = String::new();
        for chunk in path.as_ref().as_bytes().utf8_chunks() {
            for part in chunk.valid().split_inclusive('\0') {
                match part.strip_suffix('\0') {
                    Some(before) => text.extend([before, "\x0000"]),
                    None => text.push_str(part),
                }
            }
            for byte in chunk.invalid() {
                write!(text, "\0{byte:02x}").expect("a string takes any text");
            }
        }
        Self(text)
    }

    /// Returns the encoded text: the path itself if it is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Decodes the path.
    #[must_use]
    pub fn to_path_buf(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.bytes().into_owned()))
    }

    /// Decodes the bytes of the path.
    #[must_use]
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        if !self.0.contains('\0') {
            return Cow::Borrowed(self.0.as_bytes());
        }
        let mut parts = self.0.split('\0');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let (digits, rest) = part.split_at(2);
            bytes.push(u8::from_str_radix(digits, 16).expect("checked when it was made"));
            bytes.extend_from_slice(rest.as_bytes());
        }
        Cow::Owned(bytes)
    }

    /// Returns the path of `below` in this directory. If this path is empty, that is `below`
    /// itself.
    #[must_use]
    pub fn join(&self, below: &Self) -> Self {
        if self.0.is_empty() { below.clone() } else { Self(format!("{}/{}", self.0, below.0)) }
    }
}

/// Formats the path for people: bytes that are not UTF-8 are shown as `\xe9`.
impl fmt::Display for UnixPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.replace('\0', "\\x"))
    }
}

impl TryFrom<String> for UnixPath {
    type Error = InvalidEscape;

    /// Checks an encoded text.
    fn try_from(text: String) -> Result<Self, InvalidEscape> {
        let escape = |part: &str| {
            let digits = part.as_bytes().get(..2);
            digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        };
        if text.split('\0').skip(1).all(escape) { Ok(Self(text)) } else { Err(InvalidEscape(text)) }
    }
}

impl From<UnixPath> for String {
    fn from(path: UnixPath) -> Self {
        path.0
    }
}

impl From<&str> for UnixPath {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

impl From<&Path> for UnixPath {
    fn from(path: &Path) -> Self {
        Self::new(path)
    }
}

/// Permits lookups by text in maps with these keys.
impl Borrow<str> for UnixPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for UnixPath {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for UnixPath {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// Serialises host paths in a plan, in the same encoding.
pub(crate) mod host {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::UnixPath;

    pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        UnixPath::new(path).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        UnixPath::deserialize(from).map(|path| path.to_path_buf())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> String {
        serde_json::to_string(&UnixPath::new(OsStr::from_bytes(bytes))).unwrap()
    }

    #[test]
    fn utf8_is_written_as_it_is_and_other_bytes_are_escaped() {
        assert_eq!(written("usr/share/naïve \"x\"\n".as_bytes()), r#""usr/share/naïve \"x\"\n""#);
        assert_eq!(written(b"caf\xe9/x"), r#""caf\u0000e9/x""#);
        assert_eq!(written(b"a\0b"), r#""a\u000000b""#);
        assert_eq!(UnixPath::new(OsStr::from_bytes(b"caf\xe9")).to_string(), "caf\\xe9");
    }

    #[test]
    fn every_name_comes_back_as_it_was() {
        let mut names: Vec<Vec<u8>> = (0..=255).map(|byte| vec![b'a', byte, b'0', b'0']).collect();
        names.extend([b"".to_vec(), b"\xff\xfe\xc3\xa9\xc3".to_vec(), b"\0\0e9".to_vec()]);
        let mut texts = std::collections::BTreeSet::new();
        for name in &names {
            let text = written(name);
            let back: UnixPath = serde_json::from_str(&text).unwrap();
            assert_eq!(back.bytes(), name.as_slice(), "{text}");
            assert_eq!(back, UnixPath::new(back.to_path_buf()));
            assert!(texts.insert(text), "two names with one writing: {name:?}");
        }
        for bad in ["\"a\\u0000\"", "\"\\u0000g0\"", "\"\\u00000\"", "\"\\u0000é\""] {
            assert!(serde_json::from_str::<UnixPath>(bad).is_err(), "{bad}");
        }
    }
}
