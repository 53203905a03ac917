//! Files of the host that a spec names: these, and nothing else of the host,
//! enter the guest. Each is read once here, for its digest.

use std::{
    fs::{self, File, Metadata},
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use plan::{Digest, DiskBase, FileSource, UploadEntry, UploadKind};
use sha2::{Digest as _, Sha256};

/// Files of one copied directory. A tree of this size already takes minutes to
/// send; more is surely a directory that was not meant.
const FILES_MAX: usize = 200_000;
/// The largest key file: cryptsetup reads no more by default (8 MiB).
const KEY_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Why an input cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("cannot read `{}`: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("`{}` does not exist", .0.display())]
    Missing(PathBuf),
    #[error("`{}` is no {wanted}", path.display())]
    Kind { path: PathBuf, wanted: &'static str },
    #[error("`{}` has a name that is no UTF-8 text", .0.display())]
    Name(PathBuf),
    #[error("`{}` holds more than {FILES_MAX} files", .0.display())]
    TooMany(PathBuf),
    #[error("`{}` is larger than {KEY_MAX_BYTES} bytes or no UTF-8 text, which a key must be", .0.display())]
    Key(PathBuf),
}

/// Where relative paths are looked up, in order: vmdb2 takes the working
/// directory; a spec that is used from elsewhere also finds its neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Directories(pub(crate) Vec<PathBuf>);

impl Directories {
    /// The path that is meant, and what is there.
    fn find(&self, path: &str) -> Result<(PathBuf, Metadata), InputError> {
        for directory in &self.0 {
            let candidate = directory.join(path);
            match fs::metadata(&candidate) {
                Ok(metadata) => return Ok((candidate, metadata)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(InputError::Io { path: candidate, source }),
            }
        }
        let first = self.0.first().map_or_else(|| PathBuf::from(path), |dir| dir.join(path));
        Err(InputError::Missing(first))
    }

    /// A regular file, read for its digest.
    pub(crate) fn file(&self, path: &str) -> Result<HostFile, InputError> {
        let (path, metadata) = self.find(path)?;
        if !metadata.is_file() {
            return Err(InputError::Kind { path, wanted: "regular file" });
        }
        HostFile::read(path, metadata.permissions().mode())
    }

    /// The size of an image in whole sectors.
    pub(crate) fn size_of(&self, path: &str) -> Result<u64, InputError> {
        let (path, metadata) = self.find(path)?;
        if !metadata.is_file() {
            return Err(InputError::Kind { path, wanted: "regular file" });
        }
        Ok(metadata.len() / 512 * 512)
    }

    /// Whether there is a regular file.
    pub(crate) fn has_file(&self, path: &str) -> bool {
        self.find(path).is_ok_and(|(_, metadata)| metadata.is_file())
    }

    /// The text of a key file.
    pub(crate) fn key(&self, path: &str) -> Result<String, InputError> {
        let (path, metadata) = self.find(path)?;
        if metadata.len() > KEY_MAX_BYTES {
            return Err(InputError::Key(path));
        }
        match fs::read(&path) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| InputError::Key(path)),
            Err(source) => Err(InputError::Io { path, source }),
        }
    }

    /// A directory as entries of an upload. Links stay links; what is neither
    /// file, directory nor link is passed over and named.
    pub(crate) fn tree(&self, path: &str, umask: u32) -> Result<HostTree, InputError> {
        let (path, metadata) = self.find(path)?;
        if !metadata.is_dir() {
            return Err(InputError::Kind { path, wanted: "directory" });
        }
        let mut tree = HostTree { entries: Vec::new(), skipped: Vec::new() };
        tree.walk(&path, "", umask)?;
        Ok(tree)
    }
}

/// A file of the host.
#[derive(Debug, Clone)]
pub(crate) struct HostFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) mode: u32,
    sha256: Digest,
}

impl HostFile {
    fn read(path: PathBuf, mode: u32) -> Result<Self, InputError> {
        let digest = || -> std::io::Result<(u64, Digest)> {
            let mut file = File::open(&path)?;
            let mut hash = Sha256::new();
            let mut buffer = vec![0; 128 * 1024];
            let mut bytes = 0;
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Ok((bytes, Digest(hash.finalize().into())));
                }
                hash.update(&buffer[..count]);
                bytes += count as u64;
            }
        };
        match digest() {
            Ok((bytes, sha256)) => Ok(Self { path, bytes, mode: mode & 0o7777, sha256 }),
            Err(source) => Err(InputError::Io { path, source }),
        }
    }

    /// The file as what a disk begins with.
    pub(crate) fn base(&self) -> DiskBase {
        DiskBase { path: self.path.clone(), bytes: self.bytes, sha256: self.sha256 }
    }

    /// The file as an entry of an upload.
    pub(crate) fn entry(&self, name: &str, mode: u32) -> UploadEntry {
        let (path, bytes, sha256) = (self.path.clone(), self.bytes, self.sha256);
        let source = FileSource::Host { path, bytes, sha256 };
        UploadEntry { path: name.to_owned(), kind: UploadKind::File { mode, source } }
    }

    /// The last part of its path.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A directory of the host.
#[derive(Debug)]
pub(crate) struct HostTree {
    pub(crate) entries: Vec<UploadEntry>,
    /// Devices, sockets and pipes.
    pub(crate) skipped: Vec<PathBuf>,
}

impl HostTree {
    fn walk(&mut self, directory: &Path, prefix: &str, umask: u32) -> Result<(), InputError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| InputError::Io { path, source }
        };
        let mut names = fs::read_dir(directory)
            .and_then(|entries| {
                entries.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()
            })
            .map_err(io(directory))?;
        names.sort();
        for name in names {
            let path = directory.join(&name);
            let text = name.to_str().ok_or_else(|| InputError::Name(path.clone()))?;
            let relative = format!("{prefix}{text}");
            let metadata = fs::symlink_metadata(&path).map_err(io(&path))?;
            let mode = metadata.permissions().mode() & 0o7777 & !umask;
            if self.entries.len() >= FILES_MAX {
                return Err(InputError::TooMany(directory.to_owned()));
            }
            let kind = metadata.file_type();
            if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(io(&path))?;
                let target = target.to_str().ok_or_else(|| InputError::Name(path.clone()))?;
                let kind = UploadKind::Symlink(target.to_owned());
                self.entries.push(UploadEntry { path: relative, kind });
            } else if kind.is_dir() {
                let kind = UploadKind::Directory(mode);
                self.entries.push(UploadEntry { path: relative.clone(), kind });
                self.walk(&path, &format!("{relative}/"), umask)?;
            } else if kind.is_file() {
                self.entries.push(HostFile::read(path, mode)?.entry(&relative, mode));
            } else {
                self.skipped.push(path);
            }
        }
        Ok(())
    }
}
