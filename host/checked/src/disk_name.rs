//! Names of disks, which are used in file names.

use std::{borrow::Borrow, fmt};

use serde::{Deserialize, Serialize};

/// Maximum length of a disk name in bytes. With `.NUMBER.qcow2` appended, it stays far below
/// Linux's limit of 255 bytes for a file name.
pub const DISK_NAME_MAX_BYTES: usize = 128;

/// A text that is not a valid disk name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot name a disk: a name has 1 to {DISK_NAME_MAX_BYTES} letters, digits and `_.+-`, \
     and begins with a letter, a digit or `_`"
)]
pub struct InvalidDiskName(crate::Printable);

/// The name of a disk of a build: 1 to [`DISK_NAME_MAX_BYTES`] ASCII letters, digits
/// and `_.+-`, of which the first is a letter, a digit or `_`.
///
/// The files of a disk are named `NAME.raw` and `NAME.NUMBER.qcow2`. The name is a single path
/// component, and is neither `.` nor `..`, nor an option of a command.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DiskName(String);

impl DiskName {
    /// Checks a name.
    ///
    /// # Errors
    /// Fails if the text breaks a rule of the type.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidDiskName> {
        let name = name.into();
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        let rest = |b: u8| b.is_ascii_alphanumeric() || b"_.+-".contains(&b);
        if first && name.len() <= DISK_NAME_MAX_BYTES && name.bytes().all(rest) {
            Ok(Self(name))
        } else {
            Err(InvalidDiskName(crate::Printable::message(&name)))
        }
    }

    /// The name of scratch disks.
    #[must_use]
    pub fn scratch() -> Self {
        Self("scratch".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for DiskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for DiskName {
    type Error = InvalidDiskName;

    fn try_from(name: String) -> Result<Self, InvalidDiskName> {
        Self::new(name)
    }
}

impl From<DiskName> for String {
    fn from(name: DiskName) -> Self {
        name.0
    }
}

impl Borrow<str> for DiskName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for DiskName {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for DiskName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_builds_have_are_names_and_paths_are_not() {
        for good in ["scratch", "image0", "disk", "_x", "a.b+c-d", "0"] {
            assert!(DiskName::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(DISK_NAME_MAX_BYTES + 1);
        for bad in ["", ".", "..", "../x", "/x", "a/b", "-x", ".x", "a b", "a\0", "ä", "a\n", &long]
        {
            assert!(DiskName::new(bad).is_err(), "{bad:?}");
            assert!(serde_json::from_value::<DiskName>(bad.into()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_one_normal_component(text in "[a-z0-9._/\\-\\\\\u{0}-\u{20}ä]{0,12}") {
            if let Ok(name) = DiskName::new(text) {
                for file in [name.to_string(), format!("{name}.raw"), format!("{name}.1.qcow2")] {
                    let parts: Vec<_> = Path::new(&file).components().collect();
                    prop_assert_eq!(parts, [Component::Normal(file.as_ref())]);
                }
            }
        }
    }
}
