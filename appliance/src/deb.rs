//! Reads a `.deb`: an `ar` archive of two compressed tar archives.
//!
//! The content is streamed to a spool file, from which the image is filled later. All sizes must be
//! known before an ext4 image is laid out, and unpacking twice would cost more than the spool.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::packed;

/// Maximum size of a control archive, which is kept in memory. The largest real one (the digests of
/// kernel headers) is below 3 MB.
const CONTROL_MAX_BYTES: u64 = 32 << 20;
/// Maximum uncompressed size of a package. The largest in Debian, debug symbols of a kernel, has
/// some 6 GB.
const UNPACKED_MAX_BYTES: u64 = 16 << 30;
/// Maximum number of files in a package; a kernel has 5,000.
const ENTRIES_MAX: usize = 500_000;

/// Control files that only package builders need.
const CONTROL_LEFT_OUT: &[&str] = &["shlibs", "symbols"];

/// An error while reading a package.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the package `{}`", path.display())]
pub struct DebError {
    /// The path of the package.
    pub path: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// The content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Content that is stored in a spool file.
    Spool {
        /// The number of the spool file.
        spool: usize,
        /// The offset of the first byte.
        offset: u64,
        /// The length in bytes.
        length: u64,
    },
    /// Content that is stored in memory.
    Bytes(Vec<u8>),
}

impl Content {
    /// Returns the length in bytes.
    #[must_use]
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Spool { length, .. } => *length,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether the content is empty.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads a part of a file without changing its file offset.
#[derive(Debug)]
struct Slice<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Content {
    /// Returns a reader of the content.
    ///
    /// # Errors
    /// Fails if the spool file is not among the given ones.
    pub(crate) fn open<'a>(&'a self, spools: &'a [File]) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(bytes.as_slice()),
            Self::Spool { spool, offset, length } => {
                let file = spools
                    .get(*spool)
                    .ok_or_else(|| io::Error::other("a spool file is missing"))?;
                Box::new(Slice { file, at: *offset, left: *length })
            }
        })
    }

    /// Reads the content into memory.
    ///
    /// # Errors
    /// Fails if the content cannot be read, or is shorter than recorded.
    pub(crate) fn read(&self, spools: &[File]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(spools)?.read_to_end(&mut bytes)?;
        if bytes.len() as u64 == self.len() {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// The type of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link, with its target.
    Symlink(String),
    /// A hard link to the file at this path in the same package.
    HardLink(String),
    /// A device node.
    Device {
        /// Whether it is a block device.
        block: bool,
        /// The major number of the device.
        major: u32,
        /// The minor number of the device.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// Owner, permissions, time and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Meta {
    /// Permission bits with setuid, setgid and sticky bit.
    pub mode: u16,
    /// The user id. Debian's packages use only the fixed ids of base-passwd.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Seconds since the epoch.
    pub mtime: i64,
    /// Extended attributes by name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Meta {
    /// Returns the metadata of a file created by this crate, owned by root.
    #[must_use]
    pub(crate) fn root(mode: u16) -> Self {
        Self { mode, ..Self::default() }
    }
}

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The path of the file without a leading slash; empty for the root.
    pub path: String,
    /// The type of the file, with its content or target.
    pub kind: Kind,
    /// Owner and permissions.
    pub meta: Meta,
}

/// A package after reading.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deb {
    /// The files of the control archive: `control`, maintainer scripts and so
    /// on.
    pub control: BTreeMap<String, Vec<u8>>,
    /// All paths, including files left out, as `dpkg -L` lists them.
    pub paths: Vec<String>,
    /// The files kept, in the order of the package.
    pub entries: Vec<Entry>,
}

/// An append-only file of contents, which several packages share.
#[derive(Debug)]
pub(crate) struct Spool {
    /// The number of the spool file, as in [`Content::Spool`].
    pub number: usize,
    file: io::BufWriter<File>,
    end: u64,
}

impl Spool {
    /// Wraps an empty file.
    #[must_use]
    pub(crate) fn new(number: usize, file: File) -> Self {
        Self { number, file: io::BufWriter::with_capacity(256 << 10, file), end: 0 }
    }

    /// Completes the file and returns it.
    ///
    /// # Errors
    /// Fails if the last bytes cannot be written.
    pub(crate) fn finish(self) -> io::Result<File> {
        let mut file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    fn take(&mut self, input: &mut impl Read) -> io::Result<Content> {
        let offset = self.end;
        let length = io::copy(input, &mut self.file)?;
        self.end += length;
        Ok(Content::Spool { spool: self.number, offset, length })
    }
}

/// Reads a package. `keep` decides by path which files are kept.
///
/// # Errors
/// Fails if the file is not a Debian package, or cannot be read.
pub(crate) fn read(
    path: &Path,
    spool: &mut Spool,
    keep: &dyn Fn(&str) -> bool,
) -> Result<Deb, DebError> {
    read_inner(path, spool, keep).map_err(|source| DebError { path: path.to_owned(), source })
}

fn read_inner(path: &Path, spool: &mut Spool, keep: &dyn Fn(&str) -> bool) -> io::Result<Deb> {
    let mut archive = ar::Archive::new(BufReader::with_capacity(128 << 10, File::open(path)?));
    let mut deb = Deb::default();
    let (mut version, mut control, mut data) = (false, false, false);
    while let Some(member) = archive.next_entry() {
        let mut member = member?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let name = name.trim_end_matches('/');
        if name == "debian-binary" {
            let mut text = String::new();
            member.by_ref().take(16).read_to_string(&mut text)?;
            version = text.starts_with("2.");
        } else if let Some(suffix) = name.strip_prefix("control.tar") {
            deb.control = read_control(decompress(suffix, &mut member)?)?;
            control = true;
        } else if let Some(suffix) = name.strip_prefix("data.tar") {
            read_data(decompress(suffix, &mut member)?, &mut deb, spool, keep)?;
            data = true;
        }
    }
    if version && control && data {
        return Ok(deb);
    }
    Err(invalid("it is not a Debian package of format 2"))
}

fn decompress<'a>(suffix: &str, input: &'a mut dyn Read) -> io::Result<impl Read + 'a> {
    let input = BufReader::new(input);
    let reader: Box<dyn Read + 'a> = match suffix {
        "" => Box::new(input),
        ".gz" => Box::new(flate2::bufread::GzDecoder::new(input)),
        ".xz" => Box::new(packed::xz(input)?),
        ".zst" => Box::new(packed::zstd(input)?),
        other => return Err(invalid(&format!("it is compressed in an unknown way (`{other}`)"))),
    };
    Ok(packed::at_most(reader, UNPACKED_MAX_BYTES))
}

fn read_control(input: impl Read) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(input.take(CONTROL_MAX_BYTES));
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = clean_path(&entry.path_bytes())?;
        if CONTROL_LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(name, bytes);
    }
    Ok(files)
}

fn read_data(
    input: impl Read,
    deb: &mut Deb,
    spool: &mut Spool,
    keep: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(input);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = clean_path(&entry.path_bytes())?;
        if deb.paths.len() >= ENTRIES_MAX {
            return Err(invalid("it has more than 500,000 files"));
        }
        deb.paths.push(path.clone());
        if !keep(&path) {
            continue;
        }
        let meta = read_meta(&mut entry)?;
        let kind = read_kind(&mut entry, spool)?;
        deb.entries.push(Entry { path, kind, meta });
    }
    Ok(())
}

fn read_meta<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Meta> {
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            if let Some(name) =
                extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
            {
                xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
            }
        }
    }
    let header = entry.header();
    let id = |value: u64| u32::try_from(value).map_err(|_| invalid("an owner is out of range"));
    let mode = u16::try_from(header.mode()? & 0o7777).unwrap_or(0o755);
    let mtime = i64::try_from(header.mtime()?).unwrap_or(0);
    Ok(Meta { mode, uid: id(header.uid()?)?, gid: id(header.gid()?)?, mtime, xattrs })
}

fn read_kind<R: Read>(entry: &mut tar::Entry<'_, R>, spool: &mut Spool) -> io::Result<Kind> {
    let entry_type = entry.header().entry_type();
    let link = |entry: &tar::Entry<'_, R>| {
        let target = entry.link_name_bytes().ok_or_else(|| invalid("a link has no target"))?;
        String::from_utf8(target.into_owned()).map_err(|_| invalid("a link target is not UTF-8"))
    };
    Ok(if entry_type.is_dir() {
        Kind::Directory
    } else if entry_type.is_symlink() {
        Kind::Symlink(link(entry)?)
    } else if entry_type.is_hard_link() {
        Kind::HardLink(clean_path(link(entry)?.as_bytes())?)
    } else if entry_type.is_fifo() {
        Kind::Fifo
    } else if entry_type.is_block_special() || entry_type.is_character_special() {
        let header = entry.header();
        Kind::Device {
            block: entry_type.is_block_special(),
            major: header.device_major()?.unwrap_or(0),
            minor: header.device_minor()?.unwrap_or(0),
        }
    } else if entry_type.is_file() {
        Kind::File(spool.take(entry)?)
    } else {
        return Err(invalid("it holds an entry of an unknown type"));
    })
}

/// Normalises an archive path: removes empty and `.` components, and refuses a path with `..`.
fn clean_path(path: &[u8]) -> io::Result<String> {
    let text = std::str::from_utf8(path).map_err(|_| invalid("a file name is not UTF-8"))?;
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(invalid("a file name leads out of the archive")),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// A package with a control file and some entries, compressed with zstd.
    pub(crate) fn sample(dir: &Path, name: &str, files: &[(&str, u32, &[u8])]) -> PathBuf {
        let control = format!("Package: {name}\nVersion: 1\nArchitecture: amd64\n");
        package(dir, name, &control, files)
    }

    /// A package with this control file.
    pub(crate) fn package(
        dir: &Path,
        name: &str,
        control: &str,
        files: &[(&str, u32, &[u8])],
    ) -> PathBuf {
        let tar_of = |entries: &[(&str, u32, &[u8])]| {
            let mut builder = tar::Builder::new(Vec::new());
            for (path, mode, bytes) in entries {
                let mut header = tar::Header::new_gnu();
                header.set_mode(*mode);
                header.set_mtime(7);
                header.set_uid(0);
                header.set_gid(42);
                if path.ends_with('/') {
                    header.set_entry_type(tar::EntryType::Directory);
                }
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, *bytes).unwrap();
            }
            zstd::encode_all(&*builder.into_inner().unwrap(), 1).unwrap()
        };
        let control = tar_of(&[("control", 0o644, control.as_bytes())]);
        let data = tar_of(files);
        let path = dir.join(format!("{name}.deb"));
        let mut builder = ar::Builder::new(File::create(&path).unwrap());
        for (member, bytes) in [
            ("debian-binary", b"2.0\n".as_slice()),
            ("control.tar.zst", &control),
            ("data.tar.zst", &data),
        ] {
            let header = ar::Header::new(member.as_bytes().to_vec(), bytes.len() as u64);
            builder.append(&header, bytes).unwrap();
        }
        builder.into_inner().unwrap().flush().unwrap();
        path
    }

    #[test]
    fn a_package_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = sample(
            dir.path(),
            "x",
            &[("./usr/", 0o755, b""), ("./usr/a", 0o4755, b"hello"), ("./usr/doc", 0o644, b"no")],
        );
        let mut spool = Spool::new(3, tempfile::tempfile().unwrap());
        let deb = read(&path, &mut spool, &|path| path != "usr/doc").unwrap();
        assert_eq!(deb.paths, ["usr", "usr/a", "usr/doc"]);
        assert_eq!(deb.entries.len(), 2);
        assert_eq!((deb.entries[1].meta.mode, deb.entries[1].meta.gid), (0o4755, 42));
        let content = Content::Spool { spool: 3, offset: 0, length: 5 };
        assert_eq!(deb.entries[1].kind, Kind::File(content));
        assert!(deb.control["control"].starts_with(b"Package: x"));
        let mut text = String::new();
        spool.finish().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.deb");
        std::fs::write(&path, "!<arch>\n").unwrap();
        let mut spool = Spool::new(0, tempfile::tempfile().unwrap());
        let error = read(&path, &mut spool, &|_| true).unwrap_err();
        assert_eq!(error.source.to_string(), "it is not a Debian package of format 2");
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        assert!(clean_path(b"./a/../../b").is_err());
        assert_eq!(clean_path(b"./a//b/").unwrap(), "a/b");
    }
}
