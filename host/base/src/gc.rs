//! Removes entries of the base image cache that are no longer needed.
//!
//! Each use of a raw disk, a download or a recipe result updates a note (`used/NAME`); each overlay
//! written over a raw disk is recorded in another note (`overlays/NAME`). Entries that were not
//! used for long are removed, except for disks on which an overlay is still based.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{BaseError, backing};

/// Entries used more recently are always kept: a build copies its base when its machine starts,
/// soon after finding it.
const IN_USE: Duration = Duration::from_secs(3600);
/// Length of an overlay's header including the backing file name.
const HEADER_BYTES: u64 = 64 << 10;
/// Maximum size of a note, which is a list of paths.
const NOTE_MAX_BYTES: u64 = 1 << 20;
const USED: &str = "used";
const OVERLAYS: &str = "overlays";
/// Directories of entries that can be recreated.
const KINDS: [&str; 3] = ["disks", "downloads", "recipes"];

/// The result of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// The removed entries.
    pub removed: Vec<PathBuf>,
    /// Bytes freed.
    pub bytes: u64,
    /// Disks that were not used for long, but are kept for overlays.
    pub under_overlays: usize,
}

/// Records a use of a cache entry. If the note cannot be written, the entry may be removed too
/// early and recreated.
pub fn note_use(folder: &Path, path: &Path) {
    let Some(name) = path.file_name() else { return };
    if let Ok(note) = note(folder, USED, name) {
        // Truncating an empty file does not change its time.
        let _ = note.set_modified(SystemTime::now());
    }
}

/// Opens or creates a note for writing, without following links.
fn note(folder: &Path, kind: &str, name: &OsStr) -> Result<File, rooted::Error> {
    fs::create_dir_all(folder).map_err(|source| rooted::Error::Io {
        action: "make",
        path: folder.to_owned(),
        source,
    })?;
    let folder = rooted::Dir::open(folder)?;
    let kind = Path::new(kind);
    match folder.make_directory(kind, 0o700) {
        Err(rooted::Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    folder.open_or_create(&kind.join(name), 0o600)
}

/// Records an overlay over a raw disk of the cache.
///
/// # Errors
/// Fails if the note cannot be written: without it, gc would remove the disk.
pub fn note_overlay(folder: &Path, raw: &Path, overlay: &Path) -> Result<(), BaseError> {
    let Some(name) = raw.file_name() else { return Ok(()) };
    let overlay = fs::canonicalize(overlay).map_err(|e| BaseError::io("open", overlay, e))?;
    let path = folder.join(OVERLAYS).join(name);
    if overlays(&path).is_ok_and(|known| known.contains(&overlay)) {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        let mut file = note(folder, OVERLAYS, name)?;
        file.seek(io::SeekFrom::End(0))?;
        file.write_all(&[overlay.as_os_str().as_bytes(), b"\0"].concat())?;
        file.sync_all()
    };
    write().map_err(|e| BaseError::io("write", &path, e))
}

/// The overlays recorded in a note; none if it does not exist.
fn overlays(note: &Path) -> io::Result<Vec<PathBuf>> {
    let file = match File::open(note) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(NOTE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > NOTE_MAX_BYTES {
        let reason = format!("it is longer than {} MiB", NOTE_MAX_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    Ok(parts.map(|part| PathBuf::from(std::ffi::OsString::from_vec(part.to_vec()))).collect())
}

/// Whether a file still names a raw disk as its backing file, or cannot be read to find that out.
fn is_backed_by(overlay: &Path, raw: &Path) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    let mut head = Vec::new();
    let read = File::open(overlay).and_then(|file| file.take(HEADER_BYTES).read_to_end(&mut head));
    let name = raw.as_os_str().as_bytes();
    match read {
        Ok(_) => head.windows(name.len()).any(|part| part == name),
        Err(error) => !matches!(error.kind(), IsADirectory | NotADirectory | NotFound),
    }
}

/// Removes entries that were not used for `unused_for`.
///
/// # Errors
/// Fails if the folder cannot be read, or an entry cannot be removed.
pub fn gc(folder: &Path, unused_for: Duration) -> Result<Collected, BaseError> {
    let limit = unused_for.max(IN_USE);
    let mut collected = Collected::default();
    for kind in KINDS {
        for path in entries(&folder.join(kind))? {
            let name = path.file_name().unwrap_or_default();
            let (used, overlays_note) =
                (folder.join(USED).join(name), folder.join(OVERLAYS).join(name));
            if age(&path).into_iter().chain(age(&used)).min().is_none_or(|age| age < limit) {
                continue;
            }
            // A disk whose overlays are not all known may be under one of them.
            let is_free = overlays(&overlays_note)
                .is_ok_and(|known| !known.iter().any(|overlay| is_backed_by(overlay, &path)));
            if !is_free {
                collected.under_overlays += 1;
                continue;
            }
            collected.bytes += remove(&path).map_err(|e| BaseError::io("remove", &path, e))?;
            for note in [used, overlays_note] {
                // A note that stays is either overwritten later or harmless.
                let _ = fs::remove_file(note);
            }
            collected.removed.push(path);
        }
    }
    for note in entries(&folder.join("seen"))? {
        if age(&note).is_some_and(|age| age >= limit) {
            // The note only saves reading a file again.
            let _ = fs::remove_file(note);
        }
    }
    for note in entries(&folder.join(backing::NOTES))? {
        if !backing::is_live(&note) {
            // A note about a removed overlay has no effect.
            let _ = fs::remove_file(note);
        }
    }
    Ok(collected)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, BaseError> {
    let failed = |error| BaseError::io("read", folder, error);
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path()).map_err(failed)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// The time since the last change; zero if the clock was set back.
fn age(path: &Path) -> Option<Duration> {
    let changed = fs::symlink_metadata(path).ok()?.modified().ok()?;
    Some(SystemTime::now().duration_since(changed).unwrap_or_default())
}

/// Removes a file or a folder, and returns its size.
fn remove(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        fs::remove_file(path)?;
        return Ok(metadata.blocks() * 512);
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += remove(&entry?.path())?;
    }
    fs::remove_dir(path)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn old(path: &Path) {
        let time = SystemTime::now() - 40 * DAY;
        File::open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn notes_are_not_written_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("bases");
        let precious = dir.path().join("precious");
        fs::create_dir_all(folder.join(USED)).unwrap();
        fs::write(&precious, "mine").unwrap();
        std::os::unix::fs::symlink(&precious, folder.join(USED).join("a.raw")).unwrap();
        std::os::unix::fs::symlink(dir.path(), folder.join(OVERLAYS)).unwrap();
        note_use(&folder, Path::new("/x/a.raw"));
        assert!(note_overlay(&folder, Path::new("/x/precious"), &precious).is_err());
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
    }

    #[test]
    fn what_is_used_or_stood_on_stays() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("bases");
        let disks = folder.join("disks");
        fs::create_dir_all(&disks).unwrap();
        fs::create_dir_all(folder.join("recipes/ab")).unwrap();
        let names = ["young", "used", "stood-on", "left", "unused"];
        let disk = |name: &str| disks.join(format!("{name}.raw"));
        for name in names {
            fs::write(disk(name), [7; 8192]).unwrap();
        }
        fs::write(folder.join("recipes/ab/base.raw"), "x").unwrap();
        for path in names[1..].iter().map(|name| disk(name)).chain([folder.join("recipes/ab")]) {
            old(&path);
        }
        note_use(&folder, &disk("used"));
        let overlay = |name: &str, on: &Path| {
            let file = dir.path().join(name);
            fs::write(&file, [b"QFI\xfb".as_slice(), on.as_os_str().as_bytes()].concat()).unwrap();
            file
        };
        let stands = overlay("a.qcow2", &disk("stood-on"));
        note_overlay(&folder, &disk("stood-on"), &stands).unwrap();
        note_overlay(&folder, &disk("stood-on"), &stands).unwrap();
        assert_eq!(overlays(&folder.join("overlays/stood-on.raw")).unwrap().len(), 1);
        // This overlay was rewritten over another base.
        note_overlay(&folder, &disk("left"), &overlay("b.qcow2", Path::new("/other"))).unwrap();

        let collected = gc(&folder, 30 * DAY).unwrap();
        let mut removed = collected.removed;
        removed.sort();
        assert_eq!(removed, [disk("left"), disk("unused"), folder.join("recipes/ab")]);
        assert_eq!(collected.under_overlays, 1);
        assert!(collected.bytes >= 2 * 8192);
        assert!(disk("young").exists() && disk("used").exists() && disk("stood-on").exists());
        assert!(is_backed_by(&stands, &disk("stood-on")));
        // Entries possibly in use are kept even with a limit of zero.
        assert_eq!(gc(&folder, Duration::ZERO).unwrap().removed, [""; 0].map(PathBuf::from));
        fs::remove_file(&stands).unwrap();
        assert_eq!(gc(&folder, 30 * DAY).unwrap().removed, [disk("stood-on")]);
        assert_eq!(gc(&dir.path().join("none"), DAY).unwrap(), Collected::default());
    }

    #[test]
    fn a_disk_stays_while_its_overlays_cannot_be_known() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("bases");
        fs::create_dir_all(folder.join("disks")).unwrap();
        let disk = |name: &str| folder.join("disks").join(format!("{name}.raw"));
        for name in ["overlay", "note", "long"] {
            fs::write(disk(name), [7; 8192]).unwrap();
            old(&disk(name));
        }
        // An overlay that cannot be opened, a note that cannot be read, and one that is too long.
        let overlay = dir.path().join("a.qcow2");
        fs::write(&overlay, "").unwrap();
        note_overlay(&folder, &disk("overlay"), &overlay).unwrap();
        fs::remove_file(&overlay).unwrap();
        std::os::unix::fs::symlink(&overlay, &overlay).unwrap();
        fs::create_dir(folder.join(OVERLAYS).join("note.raw")).unwrap();
        let long = File::create(folder.join(OVERLAYS).join("long.raw")).unwrap();
        long.set_len(NOTE_MAX_BYTES + 1).unwrap();
        let collected = gc(&folder, 30 * DAY).unwrap();
        assert_eq!((collected.removed.len(), collected.under_overlays), (0, 3));
    }
}
