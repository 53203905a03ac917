//! Records the newest state of each suite that a mirror has served.
//!
//! A signed Release file stays genuine forever, and Debian's stable suites have no `Valid-Until`: a
//! mirror, or an attacker on the network path, can serve an old one, and with it old packages with
//! known vulnerabilities. So the newest state is recorded, as apt does with its lists.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::date;

/// Maximum size of the record, which has some hundred suites of mirrors.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// The newest date of each suite by its URL, in the format of Release files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenDates {
    path: PathBuf,
    dates: BTreeMap<String, String>,
}

impl SeenDates {
    /// Reads the record; one that does not exist is empty.
    ///
    /// # Errors
    /// Fails if the record cannot be read or is damaged: without it, old states would be accepted.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let dates = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
            Ok(meta) if meta.len() > RECORD_MAX_BYTES => {
                return Err(io::Error::other("it is too large"));
            }
            Ok(_) => serde_json::from_slice(&fs::read(path)?)?,
        };
        Ok(Self { path: path.to_owned(), dates })
    }

    /// Returns the path of the record.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the recorded date of the suite at this URL, if it is newer than `date`.
    pub(crate) fn newer(&self, suite: &str, date: &str) -> Option<&str> {
        let seen = self.dates.get(suite)?;
        (date::parse(seen) > date::parse(date)).then_some(seen.as_str())
    }

    /// Records a verified date, unless a newer one is recorded.
    pub(crate) fn note(&mut self, suite: &str, date: &str) {
        if self.newer(suite, date).is_none() {
            self.dates.insert(suite.to_owned(), date.to_owned());
        }
    }

    /// Writes the record with private permissions: it shows which mirrors are used.
    ///
    /// # Errors
    /// Fails if the record cannot be written.
    pub(crate) fn write(&self) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &self.dates)?;
        // A temporary file has the mode 0600, which is kept.
        file.persist(&self.path).map(drop).map_err(|error| error.error)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OLD: &str = "Sat, 10 Jan 2026 10:00:00 UTC";
    const NEW: &str = "Sun, 11 Jan 2026 09:00:00 UTC";

    #[test]
    fn the_newest_date_of_each_suite_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dates.json");
        let mut seen = SeenDates::read(&path).unwrap();
        assert_eq!(seen.newer("a", OLD), None);
        seen.note("a", NEW);
        seen.note("a", OLD);
        seen.write().unwrap();
        let seen = SeenDates::read(&path).unwrap();
        assert_eq!(seen.newer("a", OLD), Some(NEW));
        assert_eq!((seen.newer("a", NEW), seen.newer("b", OLD)), (None, None));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "{").unwrap();
        assert!(SeenDates::read(&path).is_err());
    }
}
