//! A suite's signed Release file: the root of trust for everything below.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    date, deb822,
    keys::{Keyring, SignatureError},
    seen::SeenDates,
};

/// How long after `Valid-Until` a Release file is still accepted, with a warning. Mirrors lag by
/// hours, rarely by days; a replayed file of last month must not be accepted as current.
const EXPIRY_GRACE_SECONDS: u64 = 3 * 86_400;

/// How far in the future a Release file may be dated, since hosts may have wrong clocks.
const CLOCK_LEEWAY_SECONDS: u64 = 86_400;

/// The reason why a Release file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The signature is invalid.
    #[error("the signature of `{suite}` is not valid")]
    Signature {
        /// The suite.
        suite: String,
        /// The cause.
        #[source]
        source: SignatureError,
    },
    /// The signed text is not what was requested, or lacks required fields.
    #[error("the release file of `{suite}` {problem}")]
    Content {
        /// The suite.
        suite: String,
        /// The reason.
        problem: String,
    },
    /// The Release file has expired.
    #[error("the release file of `{suite}` was valid until `{until}` only")]
    Expired {
        /// The suite.
        suite: String,
        /// The expiry date in the file.
        until: String,
    },
    /// The mirror serves an older state than before.
    #[error(
        "the release file of `{suite}` is dated `{date}`, and this mirror had one of `{newer}`; \
         if it went back on purpose, remove `{}`", record.display()
    )]
    RolledBack {
        /// The suite.
        suite: String,
        /// The date of the refused Release file.
        date: String,
        /// The newest date seen before.
        newer: String,
        /// The record of that date.
        record: PathBuf,
    },
}

impl ReleaseError {
    /// Creates the error for a state older than a previous one of the same mirror.
    pub(crate) fn rolled_back(suite: &str, date: &str, seen: &SeenDates, newer: &str) -> Self {
        Self::RolledBack {
            suite: suite.to_owned(),
            date: date.to_owned(),
            newer: newer.to_owned(),
            record: seen.path().to_owned(),
        }
    }
}

/// How to handle an expired Release file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Expiry {
    /// Refuse it after a grace period of three days.
    #[default]
    Refuse,
    /// Accept it with a warning: for snapshot mirrors, if the host's apt is configured to
    /// (`Acquire::Check-Valid-Until "false"`).
    Warn,
}

/// A file listed in a Release file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The size of the listed file in bytes.
    pub size: u64,
    /// The SHA-256 digest of the listed file, 64 hexadecimal digits.
    pub sha256: String,
}

/// A verified Release file.
#[derive(Debug, Clone)]
pub(crate) struct Release {
    /// The date in the file.
    pub date: String,
    /// Whether index files can be downloaded by digest, which is safe if the mirror changes between
    /// two requests.
    pub by_hash: bool,
    /// A warning for the user, if there is one.
    pub warning: Option<String>,
    files: BTreeMap<String, Listed>,
}

impl Release {
    /// Verifies and parses an InRelease file.
    ///
    /// # Errors
    /// Fails if it is not signed by a key of the ring, is for another suite, or has expired.
    pub(crate) fn verify(
        message: &str,
        suite: &str,
        keyring: &Keyring,
        expiry: Expiry,
        now: u64,
    ) -> Result<Self, ReleaseError> {
        let text = keyring
            .verify(message, now)
            .map_err(|source| ReleaseError::Signature { suite: suite.to_owned(), source })?;
        Self::read(&text, suite, expiry, now)
    }

    pub(crate) fn read(
        text: &str,
        suite: &str,
        expiry: Expiry,
        now: u64,
    ) -> Result<Self, ReleaseError> {
        let wrong = |problem: String| ReleaseError::Content { suite: suite.to_owned(), problem };
        let fields = deb822::Reader::new(text.as_bytes())
            .next_paragraph()
            .ok()
            .flatten()
            .ok_or_else(|| wrong("is not a control file".to_owned()))?;
        let codename = fields.get("Codename").unwrap_or_default();
        // A signed file of another suite is genuine, but the wrong one.
        if codename != suite {
            return Err(wrong(format!("is that of `{codename}`")));
        }
        let date_text = fields.get("Date").unwrap_or_default();
        let date = date::parse(date_text)
            .ok_or_else(|| wrong(format!("has no readable date (`{date_text}`)")))?;
        if date > now + CLOCK_LEEWAY_SECONDS {
            return Err(wrong(format!(
                "is dated `{date_text}`, in the future (is the clock right?)"
            )));
        }
        let until = fields.get("Valid-Until").map(|text| (text, date::parse(text)));
        let warning = match until {
            Some((text, Some(until))) if until < now => {
                if expiry == Expiry::Refuse && until + EXPIRY_GRACE_SECONDS < now {
                    return Err(ReleaseError::Expired {
                        suite: suite.to_owned(),
                        until: text.to_owned(),
                    });
                }
                Some(format!("the release file of `{suite}` was valid until `{text}` only"))
            }
            Some((text, None)) => {
                return Err(wrong(format!("has an unreadable `Valid-Until` (`{text}`)")));
            }
            _ => None,
        };
        let files = listed(fields.get("SHA256").unwrap_or_default());
        if files.is_empty() {
            return Err(wrong("lists no SHA256 digests".to_owned()));
        }
        Ok(Self {
            date: date_text.to_owned(),
            by_hash: fields.get("Acquire-By-Hash") == Some("yes"),
            warning,
            files,
        })
    }

    /// Returns the size and the digest of a file, by its path relative to the suite.
    #[must_use]
    pub(crate) fn file(&self, path: &str) -> Option<&Listed> {
        self.files.get(path)
    }
}

/// Parses the lines `digest size path` of a digest field.
fn listed(field: &str) -> BTreeMap<String, Listed> {
    field
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (sha256, size, path) = (words.next()?, words.next()?, words.next()?);
            if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return None;
            }
            let sha256 = sha256.to_ascii_lowercase();
            Some((path.to_owned(), Listed { size: size.parse().ok()?, sha256 }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{
        Role,
        tests::{SIGNED, THEN},
    };

    const PACKAGES: &str = "main/binary-amd64/Packages.xz";

    fn verify(suite: &str) -> Result<Release, ReleaseError> {
        let keyring = Keyring::debian(Role::Archive).unwrap();
        Release::verify(SIGNED, suite, &keyring, Expiry::Refuse, THEN)
    }

    #[test]
    fn a_real_release_is_read() {
        let release = verify("bookworm-updates").unwrap();
        assert!(release.by_hash);
        assert_eq!(release.warning, None);
        assert_eq!(release.file(PACKAGES).unwrap().sha256.len(), 64);
    }

    #[test]
    fn another_suite_is_refused() {
        assert_eq!(
            verify("bookworm").unwrap_err().to_string(),
            "the release file of `bookworm` is that of `bookworm-updates`"
        );
    }

    #[test]
    fn dates_are_checked() {
        let digest = "ab".repeat(32);
        let text = format!(
            "Codename: x\nDate: Thu, 01 Jan 1970 00:00:00 UTC\nValid-Until: Fri, 02 Jan 1970 00:00:00 UTC\nSHA256:\n {digest} 5 f\n"
        );
        let day = 86_400;
        assert_eq!(Release::read(&text, "x", Expiry::Refuse, day / 2).unwrap().warning, None);
        assert!(Release::read(&text, "x", Expiry::Refuse, 3 * day).unwrap().warning.is_some());
        let late = 9 * day;
        assert!(matches!(
            Release::read(&text, "x", Expiry::Refuse, late),
            Err(ReleaseError::Expired { .. })
        ));
        assert!(Release::read(&text, "x", Expiry::Warn, late).unwrap().warning.is_some());
        let future = text.replace("Thu, 01 Jan 1970", "Thu, 01 Jan 1971");
        assert!(Release::read(&future, "x", Expiry::Warn, day).is_err());
    }
}
