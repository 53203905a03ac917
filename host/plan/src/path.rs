//! Absolute paths inside the guest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The error for a guest path that is not absolute or contains `.`, `..` or NUL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("guest path `{0}` must be absolute, without `.`, `..` or NUL")]
pub struct InvalidPath(pub String);

/// An absolute, normalised path in the guest: no `.` or `..`, no doubled or trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestPath(String);

impl GuestPath {
    /// Checks and normalises a path.
    ///
    /// # Errors
    /// Fails if the path is not absolute, has a `.` or `..` component, or contains NUL.
    pub fn new(path: impl AsRef<str>) -> Result<Self, InvalidPath> {
        let path = path.as_ref();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let odd = parts.iter().any(|part| *part == "." || *part == "..");
        if !path.starts_with('/') || odd || path.contains('\0') {
            return Err(InvalidPath(path.to_owned()));
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }

    /// Returns a path below this one.
    ///
    /// # Errors
    /// Fails if `relative` has a `.` or `..` component, or contains NUL.
    pub fn join(&self, relative: impl AsRef<str>) -> Result<Self, InvalidPath> {
        Self::new(format!("{}/{}", self.0, relative.as_ref()))
    }

    /// Returns the path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this path or is below it.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.0 == "/"
            || other.0 == self.0
            || other.0.strip_prefix(&self.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for GuestPath {
    type Error = InvalidPath;

    fn try_from(path: String) -> Result<Self, InvalidPath> {
        Self::new(path)
    }
}

impl From<GuestPath> for String {
    fn from(path: GuestPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_and_refuses() {
        assert_eq!(GuestPath::new("//a///b/").unwrap().as_str(), "/a/b");
        assert_eq!(GuestPath::new("/").unwrap().as_str(), "/");
        for bad in ["", "a", "/a/../b", "/./a", "/a\0"] {
            assert!(GuestPath::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn contains_is_by_component() {
        let a = GuestPath::new("/a").unwrap();
        assert!(a.contains(&GuestPath::new("/a/b").unwrap()));
        assert!(!a.contains(&GuestPath::new("/ab").unwrap()));
        assert!(GuestPath::new("/").unwrap().contains(&a));
    }
}
