//! Renames finished outputs to their final names.
//!
//! Outputs stay complete, flushed and hidden until the whole build has succeeded; then all of them
//! are renamed. Checksum files of a replaced image are removed first, so that an image never has
//! the checksum of another.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    Checksum, OutputError, Result,
    atomic::{OutFile, directory_of, sync_directory},
    checksum,
};

/// What happens to an existing file with the name of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Replace it.
    Replace,
    /// Rename it, with its checksum files, to `NAME-YYYY.MM.DD-HH.MM.SS.ext` by its modification
    /// time in UTC, as diskimage-builder does.
    KeepDated,
}

/// A complete output without its final name. Dropping it leaves no trace.
#[derive(Debug)]
pub struct Pending {
    pub(crate) file: OutFile,
    pub(crate) format: &'static str,
    pub(crate) digests: Vec<(Checksum, String)>,
}

impl Pending {
    /// The path that the output has after it is committed.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.destination()
    }
}

/// A finished output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The format's name.
    pub format: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes, including holes.
    pub bytes: u64,
    /// Its digests in hexadecimal; each is also in a checksum file.
    pub digests: Vec<(Checksum, String)>,
    /// The new path of an older file with the same name.
    pub kept: Option<PathBuf>,
}

/// Renames all outputs to their final names, in order. If one fails, earlier ones stay and later
/// ones are removed. Failures are unlikely, since all data is on disk and only renames remain.
///
/// # Errors
/// Fails if a rename, or writing a checksum file, fails.
pub fn commit(pending: Vec<Pending>, existing: Existing) -> Result<Vec<Written>> {
    // Write the checksum files first, since writing can fail.
    let mut ready = Vec::new();
    for output in pending {
        let mut files = Vec::new();
        for (kind, hex) in &output.digests {
            let mut file = OutFile::create(&kind.file_for(output.path()), false)?;
            file.append(&checksum::line(hex, output.path()))?;
            file.seal()?;
            files.push(file);
        }
        ready.push((output, files));
    }
    let mut written = Vec::new();
    for (mut output, checksums) in ready {
        let path = output.path().to_owned();
        let kept = match existing {
            Existing::KeepDated => keep_dated(&path)?,
            Existing::Replace => {
                remove_checksums(&path)?;
                None
            }
        };
        output.file.rename_into_place()?;
        for mut file in checksums {
            file.rename_into_place()?;
        }
        sync_directory(directory_of(&path))?;
        let (format, digests) = (output.format, output.digests);
        written.push(Written { format, path, bytes: output.file.position(), digests, kept });
    }
    Ok(written)
}

fn remove_checksums(path: &Path) -> Result<()> {
    for kind in Checksum::ALL {
        let file = kind.file_for(path);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(OutputError::io("remove the outdated", &file, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Maximum names tried if the dated one is taken: more than a few files modified in the same second
/// indicate another problem.
const DATED_ATTEMPTS: u32 = 100;

/// Renames an existing output and its checksum files.
fn keep_dated(path: &Path) -> Result<Option<PathBuf>> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(OutputError::io("examine", path, e)),
    };
    let modified = meta.modified().map_err(|e| OutputError::io("examine", path, e))?;
    let seconds = modified.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let kept = (0..DATED_ATTEMPTS).map(|n| dated_name(path, seconds, n)).find(|n| !n.exists());
    let Some(kept) = kept else {
        let e = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(OutputError::io("find a dated name for", path, e));
    };
    for kind in Checksum::ALL {
        let from = kind.file_for(path);
        if from.exists() {
            let to = kind.file_for(&kept);
            fs::rename(&from, &to).map_err(|e| OutputError::io("keep", &from, e))?;
            rename_in(&to, &kept)?;
        }
    }
    // Add the second name first, so that the file always has one; without hard links, rename it.
    if fs::hard_link(path, &kept).is_err() {
        fs::rename(path, &kept).map_err(|e| OutputError::io("keep", path, e))?;
    }
    Ok(Some(kept))
}

/// Updates the file name in a checksum file; one in an unknown format stays unchanged.
fn rename_in(file: &Path, name: &Path) -> Result<()> {
    const LINE_MAX_BYTES: u64 = 64 << 10;
    let length = fs::symlink_metadata(file).map_err(|e| OutputError::io("examine", file, e))?.len();
    if length > LINE_MAX_BYTES {
        return Ok(());
    }
    let old = fs::read(file).map_err(|e| OutputError::io("read", file, e))?;
    let old = String::from_utf8_lossy(&old);
    let hex = old.trim_start_matches('\\').split_once("  ").map(|(hex, _)| hex);
    let Some(hex) = hex.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) else {
        return Ok(());
    };
    let mut out = OutFile::create(file, false)?;
    out.append(&checksum::line(hex, name))?;
    out.seal()?;
    out.rename_into_place()
}

/// `NAME-YYYY.MM.DD-HH.MM.SS.ext`; later attempts append a counter.
fn dated_name(path: &Path, seconds: u64, attempt: u32) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{}", stamp(seconds)));
    if attempt > 0 {
        name.push(format!("-{attempt}"));
    }
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// A time in UTC as `YYYY.MM.DD-HH.MM.SS`.
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}.{month:02}.{day:02}-{hour:02}.{minute:02}.{second:02}")
}

/// The Gregorian date of a number of days since 1970. Counts in eras of 400 years that begin on the
/// first of March, so that leap days are last.
#[must_use]
pub fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let shifted = days + DAYS_FROM_0000_03_01;
    let (era, day_of_era) = (shifted / DAYS_PER_ERA, shifted % DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(stamp(0), "1970.01.01-00.00.00");
        assert_eq!(stamp(951_782_399), "2000.02.28-23.59.59");
        assert_eq!(stamp(951_782_400), "2000.02.29-00.00.00");
        assert_eq!(stamp(1_795_222_861), "2026.11.21-01.01.01");
        assert_eq!(stamp(4_107_542_400), "2100.03.01-00.00.00");
    }

    #[test]
    fn dated_names() {
        let name = |path: &str, n| dated_name(Path::new(path), 0, n);
        assert_eq!(name("d/a.b.qcow2", 0), Path::new("d/a.b-1970.01.01-00.00.00.qcow2"));
        assert_eq!(name("image", 0), Path::new("image-1970.01.01-00.00.00"));
        assert_eq!(name("a.raw", 2), Path::new("a-1970.01.01-00.00.00-2.raw"));
    }

    fn pending(path: &Path, content: &[u8], digests: &[(Checksum, &str)]) -> Pending {
        let mut file = OutFile::create(path, false).unwrap();
        file.append(content).unwrap();
        file.seal().unwrap();
        let digests = digests.iter().map(|(k, h)| (*k, (*h).to_owned())).collect();
        Pending { file, format: "raw", digests }
    }

    #[test]
    fn older_outputs_are_kept_with_their_checksums() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("i.raw");
        let first = pending(&path, b"one", &[(Checksum::Md5, "11"), (Checksum::Sha256, "22")]);
        assert_eq!(commit(vec![first], Existing::KeepDated).unwrap()[0].kept, None);
        let second = pending(&path, b"two", &[(Checksum::Md5, "33")]);
        let written = commit(vec![second], Existing::KeepDated).unwrap();
        let kept = written[0].kept.clone().unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), fs::read(&kept).unwrap()),
            (b"two".into(), b"one".into())
        );
        let old = fs::read_to_string(Checksum::Md5.file_for(&kept)).unwrap();
        let name = kept.file_name().unwrap().to_str().unwrap();
        assert_eq!(old, format!("11  {name}\n"));
        assert!(Checksum::Sha256.file_for(&kept).exists());
        assert!(!Checksum::Sha256.file_for(&path).exists(), "it was of the older image");
        assert!(fs::read_to_string(Checksum::Md5.file_for(&path)).unwrap().starts_with("33  "));
    }

    #[test]
    fn replacing_removes_outdated_checksums() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("i.raw");
        commit(vec![pending(&path, b"one", &[(Checksum::Sha512, "11")])], Existing::Replace)
            .unwrap();
        let written = commit(vec![pending(&path, b"2", &[])], Existing::Replace).unwrap();
        assert_eq!((written[0].bytes, &written[0].kept), (1, &None));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
