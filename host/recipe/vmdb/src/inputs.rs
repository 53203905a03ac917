//! Host files that a spec names; no other host file enters the guest. Each is read once here to
//! compute its digest.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use inputs::{Found, Source, SourceError, Sources};
use plan::{Digest, DiskBase, FileSource, UnixPath, UploadEntry, UploadKind};

/// Maximum size of a key file: the default limit of cryptsetup (8 MiB).
const KEY_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Directories in which distributions and administrators keep the public keys of archives. A spec
/// may name a file in them as a keyring.
const KEYRING_FOLDERS: [&str; 3] =
    ["/usr/share/keyrings", "/etc/apt/keyrings", "/etc/apt/trusted.gpg.d"];

/// Why an input is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("`{}` is larger than {KEY_MAX_BYTES} bytes or no UTF-8 text, which a key must be", .0.display())]
    Key(PathBuf),
}

impl InputError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.hint(),
            Self::Key(_) => None,
        }
    }
}

/// Where paths of the spec are looked up. vmdb2 uses the working directory; here a spec used from
/// elsewhere also finds files beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Directories(pub(crate) Sources);

impl Directories {
    /// A regular file that the spec names, with its digest.
    pub(crate) fn file(&self, path: &str) -> Result<HostFile, InputError> {
        HostFile::read(&self.0.find(Path::new(path))?)
    }

    /// A regular file that the command line names, with its digest.
    pub(crate) fn file_of_user(&self, path: &str) -> Result<HostFile, InputError> {
        HostFile::read(&self.0.find_of_user(Path::new(path))?)
    }

    /// A keyring: a file of the spec, or one in the system-wide directories.
    pub(crate) fn keyring(&self, path: &str) -> Result<HostFile, InputError> {
        let mut sources = self.0.clone();
        sources.allowed.extend(KEYRING_FOLDERS.map(PathBuf::from));
        HostFile::read(&sources.find(Path::new(path))?)
    }

    /// The size in bytes of an image that the command line names; it must be whole sectors.
    pub(crate) fn size_of(&self, path: &str) -> Result<u64, InputError> {
        let source = self.0.find_of_user(Path::new(path))?;
        if !source.metadata.is_file() {
            return Err(source.wrong_kind("regular file").into());
        }
        Ok(source.metadata.len() / 512 * 512)
    }

    /// Whether a regular file exists. It is not read.
    pub(crate) fn has_file(&self, path: &str) -> bool {
        self.0.find_of_user(Path::new(path)).is_ok_and(|source| source.metadata.is_file())
    }

    /// The content of a key file.
    pub(crate) fn key(&self, path: &str) -> Result<String, InputError> {
        let source = self.0.find(Path::new(path))?;
        if source.metadata.len() > KEY_MAX_BYTES {
            return Err(InputError::Key(source.path));
        }
        read_text(&source, KEY_MAX_BYTES)?.ok_or(InputError::Key(source.path))
    }

    /// The content of a readable regular file of at most `max_bytes`.
    pub(crate) fn text(&self, path: &Path, max_bytes: u64) -> Option<String> {
        read_text(&self.0.find(path).ok()?, max_bytes).ok()?
    }

    /// A directory as upload entries, with the mode bits of `umask` cleared. Links stay links.
    pub(crate) fn tree(&self, path: &str, umask: u32) -> Result<HostTree, InputError> {
        let source = self.0.find(Path::new(path))?;
        let tree = source.tree()?;
        let warnings = tree.warnings();
        let entry = |(path, found): (UnixPath, Found)| {
            let found = without(found, umask);
            inputs::entry(path, &found).map_err(|error| source.unreadable(error))
        };
        let entries = tree.files.into_iter().map(entry).collect::<Result<_, _>>()?;
        Ok(HostTree { entries, warnings })
    }
}

/// `None` if the file is larger than `max_bytes` or not UTF-8.
fn read_text(source: &Source, max_bytes: u64) -> Result<Option<String>, SourceError> {
    let mut bytes = Vec::new();
    let file = rooted::open_file(&source.real).map_err(|error| source.unreadable(error))?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|error| {
        source.unreadable(rooted::Error::Io {
            action: "read",
            path: source.real.clone(),
            source: error,
        })
    })?;
    Ok(Some(bytes)
        .filter(|bytes| bytes.len() as u64 <= max_bytes)
        .and_then(|bytes| String::from_utf8(bytes).ok()))
}

/// Clears the mode bits of `umask`.
fn without(found: Found, umask: u32) -> Found {
    match found {
        Found::Symlink { .. } => found,
        Found::Directory { mode } => Found::Directory { mode: mode & !umask },
        Found::File { host, mode } => Found::File { host, mode: mode & !umask },
        Found::Fifo { mode } => Found::Fifo { mode: mode & !umask },
        Found::Device { mode, kind, major, minor } => {
            Found::Device { mode: mode & !umask, kind, major, minor }
        }
    }
}

/// A file of the host.
#[derive(Debug, Clone)]
pub(crate) struct HostFile {
    /// The path of the file as it was found, with links.
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) mode: u32,
    /// The path of the file without links.
    real: PathBuf,
    sha256: Digest,
}

impl HostFile {
    fn read(source: &Source) -> Result<Self, InputError> {
        let Found::File { host, mode } = source.file()? else {
            return Err(source.wrong_kind("regular file").into());
        };
        let (bytes, sha256) = inputs::measure(&host).map_err(|error| source.unreadable(error))?;
        Ok(Self { path: source.path.clone(), bytes, mode, real: host, sha256 })
    }

    /// The file as the initial content of a disk.
    pub(crate) fn base(&self) -> DiskBase {
        DiskBase { path: self.path.clone(), offset: 0, bytes: self.bytes, sha256: self.sha256 }
    }

    /// The file as an entry of an upload.
    pub(crate) fn entry(&self, name: &str, mode: u32) -> UploadEntry {
        let (path, bytes, sha256) = (self.real.clone(), self.bytes, self.sha256);
        let source = FileSource::Host { path, bytes, sha256 };
        UploadEntry { path: name.into(), kind: UploadKind::File { mode, source } }
    }

    /// The name of the file: the last component of its path.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A directory of the host.
#[derive(Debug)]
pub(crate) struct HostTree {
    pub(crate) entries: Vec<UploadEntry>,
    /// Warnings about files that are left out.
    pub(crate) warnings: Vec<String>,
}
