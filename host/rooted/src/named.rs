//! Opens files that the user named by path, in places to which other users may have written.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::unistd::geteuid;

use crate::{Error, Result};

const OTHERS_WRITE: u32 = 0o002;
/// Mode bits that a secret must not have. The group may read it, so that services can share one.
const SECRET_REFUSED: u32 = 0o027;

/// Checks that a file belongs to the user or to root.
fn check_owner(path: &Path, metadata: &Metadata) -> Result<()> {
    let (owner, user) = (metadata.uid(), geteuid().as_raw());
    if owner == user || owner == 0 {
        return Ok(());
    }
    Err(Error::Owner { path: path.to_owned(), owner, user })
}

/// Creates or truncates a file that the user named, for writing a log. A new file is private. In a
/// world-writable directory, an existing file or link of another user is refused.
///
/// # Errors
/// Fails if it cannot be created, or belongs to another user.
pub fn create_private(path: &Path) -> Result<File> {
    let io = |action| move |source| Error::io(action, path, source);
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = fs::metadata(parent.unwrap_or(Path::new("."))).map_err(io("create"))?;
    let in_shared = parent.mode() & OTHERS_WRITE != 0;
    if in_shared {
        for found in [fs::symlink_metadata(path), fs::metadata(path)].into_iter().flatten() {
            check_owner(path, &found)?;
        }
    }
    // It is truncated only after its owner is checked.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(io("create"))?;
    let metadata = file.metadata().map_err(io("examine"))?;
    if metadata.is_file() {
        if in_shared {
            check_owner(path, &metadata)?;
        }
        file.set_len(0).map_err(io("empty"))?;
    }
    Ok(file)
}

/// Reads a file with a secret, at most `max_bytes` of it. A regular file must belong to the user or
/// root; other users must be able neither to read nor to change it, except that its group may read
/// it.
///
/// # Errors
/// Fails if it cannot be read, or if it is exposed to other users.
pub fn read_secret(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let io = |source| Error::io("read", path, source);
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_file() {
        check_owner(path, &metadata)?;
        let mode = metadata.mode() & 0o7777;
        if mode & SECRET_REFUSED != 0 {
            return Err(Error::Exposed { path: path.to_owned(), mode });
        }
    }
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// Maximum size of a recipe: hand-written files are far below a mebibyte.
pub const RECIPE_MAX_BYTES: u64 = 8 << 20;

/// Reads a whole recipe.
///
/// # Errors
/// Fails if it cannot be read, is not UTF-8, or is longer than [`RECIPE_MAX_BYTES`].
pub fn read_recipe(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let read = file.take(RECIPE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > RECIPE_MAX_BYTES {
        let reason = format!("it is longer than {} MiB", RECIPE_MAX_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_secret_is_read_when_nobody_else_can() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "0123456789").unwrap();
        for good in [0o600, 0o400, 0o640] {
            set_mode(&file, good);
            assert_eq!(read_secret(&file, 4).unwrap(), b"0123", "{good:o}");
        }
        for bad in [0o644, 0o604, 0o660, 0o602, 0o601] {
            set_mode(&file, bad);
            let error = read_secret(&file, 4).unwrap_err();
            assert!(matches!(error, Error::Exposed { .. }), "{bad:o}: {error}");
            assert!(error.hint().unwrap().contains("chmod 600"));
        }
    }

    #[test]
    fn a_log_is_the_users_alone_and_no_file_of_others_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        drop(create_private(&log).unwrap());
        assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
        fs::write(&log, "old").unwrap();
        drop(create_private(&log).unwrap());
        assert_eq!(fs::read(&log).unwrap(), b"");
        // The user's own link and a device are accepted.
        symlink("log", folder.path().join("latest")).unwrap();
        drop(create_private(&folder.path().join("latest")).unwrap());
        drop(create_private(Path::new("/dev/null")).unwrap());
        if !geteuid().is_root() {
            eprintln!("skipped in part: only root can make files of another user");
            return;
        }
        set_mode(folder.path(), 0o1777);
        let other = Some(nix::unistd::Uid::from_raw(65_534));
        let theirs = folder.path().join("theirs");
        fs::write(&theirs, "kept").unwrap();
        nix::unistd::chown(&theirs, other, None).unwrap();
        let planted = folder.path().join("planted");
        symlink("log", &planted).unwrap();
        fs::write(&log, "kept").unwrap();
        let flag = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(nix::fcntl::AT_FDCWD, &planted, other, None, flag).unwrap();
        for bad in [&theirs, &planted] {
            assert!(matches!(create_private(bad), Err(Error::Owner { .. })), "{}", bad.display());
        }
        assert_eq!(
            (fs::read(&theirs).unwrap(), fs::read(&log).unwrap()),
            (b"kept".to_vec(), b"kept".to_vec())
        );
    }
}
