//! Host files that a recipe names, as entries of an upload.
//!
//! Every front end sends trees to the guest: elements, a spec's files, layers. Files are sent
//! unchanged: a symbolic link as a link with its exact target, a pipe and a device as such, each
//! with its permission bits; names need not be UTF-8. No link in a tree is followed. A socket is
//! useless without the process that listens on it, so it is left out with a warning.
//!
//! [`Sources`] defines which host files a recipe may name.
//!
//! Architecture invariant: files are read through `rooted`.

mod sources;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use plan::{DeviceKind, Digest, FileSource, UnixPath, UploadEntry, UploadKind};
use rooted::{Descend, Dir, Error, Kind};
use sha2::{Digest as _, Sha256};

pub use sources::{ALLOW_OPTION, Source, SourceError, Sources};

/// Read buffer size: large enough to make the calls cheap.
const READ_BYTES: usize = 128 * 1024;

/// A file of a tree, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// The target of the symbolic link.
        target: UnixPath,
    },
    /// A regular file.
    File {
        /// Its absolute path on the host, without links.
        host: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// A named pipe.
    Fifo {
        /// Permission bits.
        mode: u32,
    },
    /// A device node.
    Device {
        /// Permission bits.
        mode: u32,
        /// Which kind of device.
        kind: DeviceKind,
        /// The driver's (major) number.
        major: u32,
        /// The device's (minor) number.
        minor: u32,
    },
}

/// A directory tree of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Its files by path relative to its root: a directory precedes its content, names in a
    /// directory are in byte order.
    pub files: Vec<(UnixPath, Found)>,
    /// Sockets, which are left out.
    pub sockets: Vec<PathBuf>,
}

impl Tree {
    /// Warnings for the user.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let warning = |path: &PathBuf| {
            format!(
                "`{}` is a socket, which is nothing without the process that listens to it: it is \
                 left out",
                path.display()
            )
        };
        self.sockets.iter().map(warning).collect()
    }
}

/// Reads a directory, except for the paths for which `skip` (path, is a directory) is true.
///
/// # Errors
/// Fails if a file cannot be read, or if the tree exceeds the limits of [`rooted::walk()`].
pub fn tree(top: &Dir, skip: &dyn Fn(&UnixPath, bool) -> bool) -> Result<Tree, Error> {
    let mut tree = Tree::default();
    rooted::walk::<Error>(top, &mut |entry| {
        let path = UnixPath::new(entry.path);
        if skip(&path, entry.kind == Kind::Directory) {
            return Ok(Descend::No);
        }
        let mode = entry.mode();
        let device = |kind, major, minor| Found::Device { mode, kind, major, minor };
        let host = || top.path().join(entry.path);
        let found = match entry.kind {
            Kind::Directory => Found::Directory { mode },
            Kind::Link => Found::Symlink { target: UnixPath::new(entry.target()?) },
            Kind::File => Found::File { host: host(), mode },
            Kind::Fifo => Found::Fifo { mode },
            Kind::Character(major, minor) => device(DeviceKind::Character, major, minor),
            Kind::Block(major, minor) => device(DeviceKind::Block, major, minor),
            Kind::Socket => {
                tree.sockets.push(host());
                return Ok(Descend::No);
            }
        };
        tree.files.push((path, found));
        Ok(Descend::Yes)
    })?;
    Ok(tree)
}

/// A regular file that the user named. Links in the path are the user's own and are followed.
///
/// # Errors
/// Fails if the file does not exist or is not a regular file.
pub fn named_file(path: &Path) -> Result<Found, Error> {
    use std::os::unix::fs::MetadataExt;
    let host = fs::canonicalize(path).map_err(|e| failed("open", path, e))?;
    let metadata = rooted::open_file(&host)?.metadata().map_err(|e| failed("examine", &host, e))?;
    Ok(Found::File { host, mode: metadata.mode() & 0o7777 })
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

/// A host file as a source of bytes; reads it to compute its digest.
///
/// # Errors
/// Fails if the file, an absolute path without links, cannot be read.
pub fn host_file(path: &Path) -> Result<FileSource, Error> {
    let (bytes, sha256) = measure(path)?;
    Ok(FileSource::Host { path: path.to_owned(), bytes, sha256 })
}

/// The size and the digest of a file, an absolute path without links.
///
/// # Errors
/// Fails if it cannot be read.
pub fn measure(path: &Path) -> Result<(u64, Digest), Error> {
    digest(rooted::open_file(path)?).map_err(|e| failed("read", path, e))
}

/// The size and the digest of an open file.
fn digest(mut file: File) -> io::Result<(u64, Digest)> {
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

/// A file as an entry of an upload. A regular file is read to compute its digest.
///
/// # Errors
/// Fails if it cannot be read.
pub fn entry(path: UnixPath, found: &Found) -> Result<UploadEntry, Error> {
    let kind = match found {
        Found::Directory { mode } => UploadKind::Directory(*mode),
        Found::Symlink { target } => UploadKind::Symlink(target.clone()),
        Found::File { host, mode } => UploadKind::File { mode: *mode, source: host_file(host)? },
        Found::Fifo { mode } => UploadKind::Fifo(*mode),
        Found::Device { mode, kind, major, minor } => {
            UploadKind::Device { mode: *mode, kind: *kind, major: *major, minor: *minor }
        }
    };
    Ok(UploadEntry { path, kind })
}

/// The files of a tree as entries of an upload.
///
/// # Errors
/// Fails if a file cannot be read.
pub fn entries<'a>(
    files: impl IntoIterator<Item = (&'a UnixPath, &'a Found)>,
) -> Result<Vec<UploadEntry>, Error> {
    files.into_iter().map(|(path, found)| entry(path.clone(), found)).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsStr,
        os::unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, symlink},
            net::UnixListener,
        },
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    fn read(folder: &Path) -> Tree {
        tree(&Dir::open(folder).unwrap(), &|_, _| false).unwrap()
    }

    fn shown(tree: &Tree) -> Vec<String> {
        let line = |(path, found): &(UnixPath, Found)| match found {
            Found::Directory { mode } => format!("{path} directory {mode:o}"),
            Found::Symlink { target } => format!("{path} -> {target}"),
            Found::File { mode, .. } => format!("{path} file {mode:o}"),
            Found::Fifo { mode } => format!("{path} fifo {mode:o}"),
            Found::Device { kind, major, minor, .. } => {
                format!("{path} {kind:?} {major}:{minor}")
            }
        };
        tree.files.iter().map(line).collect()
    }

    #[test]
    fn a_tree_is_taken_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/file"), "x").unwrap();
        fs::write(at("d.conf"), "x").unwrap();
        fs::write(folder.path().join(OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
        for (name, mode) in [("d/file", 0o4755), ("d", 0o1777), ("d.conf", 0o600)] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(
            folder.path().join(OsStr::from_bytes(b"caf\xe9")),
            fs::Permissions::from_mode(0o644),
        )
        .unwrap();
        for (target, link) in [
            ("/dev/null", "null"),
            ("/etc/passwd", "passwd"),
            ("..", "up"),
            (".", "self"),
            ("gone//./x/", "dangling"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        symlink(OsStr::from_bytes(b"caf\xe9"), at("latin")).unwrap();
        mkfifo(&at("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let tree = read(folder.path());
        let expected = [
            "caf\\xe9 file 644",
            "d directory 1777",
            "d/file file 4755",
            "d.conf file 600",
            "dangling -> gone//./x/",
            "latin -> caf\\xe9",
            "null -> /dev/null",
            "passwd -> /etc/passwd",
            "pipe fifo 600",
            "self -> .",
            "up -> ..",
        ];
        assert_eq!(shown(&tree), expected);
        assert_eq!(tree.sockets.len(), 1);
        assert!(tree.warnings()[0].contains("/socket` is a socket"), "{:?}", tree.warnings());
        let entries = entries(tree.files.iter().map(|(path, found)| (path, found))).unwrap();
        assert_eq!(entries[0].path.bytes(), b"caf\xe9".as_slice());
        assert_eq!(entries[4].kind, UploadKind::Symlink("gone//./x/".into()));
    }

    #[test]
    fn devices_keep_their_numbers() {
        // Only root may create a device, so the test reads /dev.
        let dev = Dir::open(Path::new("/dev")).unwrap();
        let others = |path: &UnixPath, _| !matches!(path.as_str(), "null" | "zero");
        let found = tree(&dev, &others).unwrap();
        assert_eq!(shown(&found), ["null Character 1:3", "zero Character 1:5"]);
        let entry = entry(found.files[0].0.clone(), &found.files[0].1).unwrap();
        assert!(matches!(entry.kind, UploadKind::Device { major: 1, minor: 3, .. }));
    }

    #[test]
    fn a_file_that_became_a_link_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, secret) = (folder.path().join("file"), folder.path().join("secret"));
        fs::write(&file, "x").unwrap();
        fs::write(&secret, "secret").unwrap();
        let tree = read(folder.path());
        fs::remove_file(&file).unwrap();
        symlink("secret", &file).unwrap();
        let (path, found) = &tree.files[0];
        assert!(matches!(entry(path.clone(), found), Err(Error::Link(_))));
        // A path that the user names may be a link.
        let Found::File { host, .. } = named_file(&file).unwrap() else { panic!() };
        assert!(host.ends_with("secret"));
        assert!(named_file(folder.path()).is_err());
    }
}
