//! Files of the project as entries of an upload. Each is read once here, for its
//! digest; the engine refuses one that has changed since.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use plan::{Digest, FileSource, UploadEntry, UploadKind};
use sha2::{Digest as _, Sha256};

/// Files of one folder. A tree of this size already takes minutes to send; more
/// is surely a folder that was not meant.
const FILES_MAX: usize = 200_000;
/// Files are hashed in pieces of this size.
const READ_BYTES: usize = 128 * 1024;

/// Why a file of the project cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is a device, a socket or a pipe.
    #[error("`{}` is neither file, folder nor link", .0.display())]
    Kind(PathBuf),
    /// Its name cannot be kept.
    #[error("`{}` has a name that is no UTF-8 text", .0.display())]
    Name(PathBuf),
    /// There are too many.
    #[error("`{}` holds more than {FILES_MAX} files", .0.display())]
    TooMany(PathBuf),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> InputError {
    let path = path.to_owned();
    move |source| InputError::Io { path, source }
}

/// What is in a folder, sorted, parents before children. Links stay links.
pub(crate) fn tree(folder: &Path) -> Result<Vec<UploadEntry>, InputError> {
    let mut entries = Vec::new();
    walk(folder, folder, "", &mut entries)?;
    Ok(entries)
}

/// One file or folder under a name of its own.
pub(crate) fn named(path: &Path, name: &str) -> Result<Vec<UploadEntry>, InputError> {
    // A source may be a link: what it leads to is meant.
    let metadata = fs::metadata(path).map_err(io_error(path))?;
    let kind = kind(path, &metadata)?;
    let is_folder = matches!(kind, UploadKind::Directory(_));
    let mut entries = vec![UploadEntry { path: name.to_owned(), kind }];
    if is_folder {
        walk(path, path, &format!("{name}/"), &mut entries)?;
    }
    Ok(entries)
}

fn walk(
    top: &Path,
    folder: &Path,
    prefix: &str,
    entries: &mut Vec<UploadEntry>,
) -> Result<(), InputError> {
    let listed = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut names: Vec<_> =
        listed.map_err(io_error(folder))?.iter().map(fs::DirEntry::file_name).collect();
    names.sort();
    for name in names {
        let path = folder.join(&name);
        let name = name.to_str().ok_or_else(|| InputError::Name(path.clone()))?;
        if entries.len() >= FILES_MAX {
            return Err(InputError::TooMany(top.to_owned()));
        }
        let metadata = fs::symlink_metadata(&path).map_err(io_error(&path))?;
        let kind = kind(&path, &metadata)?;
        let is_folder = matches!(kind, UploadKind::Directory(_));
        entries.push(UploadEntry { path: format!("{prefix}{name}"), kind });
        if is_folder {
            walk(top, &path, &format!("{prefix}{name}/"), entries)?;
        }
    }
    Ok(())
}

fn kind(path: &Path, metadata: &Metadata) -> Result<UploadKind, InputError> {
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_dir() {
        return Ok(UploadKind::Directory(mode));
    }
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(io_error(path))?;
        let text = target.to_str().ok_or_else(|| InputError::Name(path.to_owned()))?;
        return Ok(UploadKind::Symlink(text.to_owned()));
    }
    if !metadata.is_file() {
        return Err(InputError::Kind(path.to_owned()));
    }
    let (bytes, sha256) = digest(path).map_err(io_error(path))?;
    let source = FileSource::Host { path: path.to_owned(), bytes, sha256 };
    Ok(UploadKind::File { mode, source })
}

fn digest(path: &Path) -> io::Result<(u64, Digest)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, Digest(hash.finalize().into()))),
            Ok(count) => {
                hash.update(&buffer[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_with_modes_links_and_order() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("b")).unwrap();
        fs::write(at("b/x"), "1").unwrap();
        fs::write(at("a.sh"), "2").unwrap();
        fs::set_permissions(at("a.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("b/x", at("c")).unwrap();
        let entries = tree(folder.path()).unwrap();
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a.sh", "b", "b/x", "c"]);
        assert!(
            matches!(&entries[0].kind, UploadKind::File { mode: 0o755, source: FileSource::Host { sha256, .. } } if *sha256 == Digest::of(b"2"))
        );
        assert_eq!(entries[3].kind, UploadKind::Symlink("b/x".into()));
        let through = named(&at("c"), "0").unwrap();
        assert!(matches!(&through[..], [UploadEntry { kind: UploadKind::File { .. }, .. }]));
        let folder = named(&at("b"), "1").unwrap();
        assert_eq!(folder[1].path, "1/x");
        assert!(named(&at("missing"), "2").is_err());
    }
}
