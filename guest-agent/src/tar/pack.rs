//! Packs a file tree as a tar stream.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, major, minor};
use tar::{EntryType, Header};
use wire::{DATA_MAX_BYTES, Failure};

use super::BLOCK_BYTES;
use crate::failure::Doing;
use crate::openat2::{Root, proc_path};
use crate::stream::{Stream, StreamWriter};
use crate::sys;
use crate::tree::{self, Descend, Entry, Visitor};

/// The maximum length of a name in a header block, in bytes.
const NAME_MAX_BYTES: usize = 100;

/// The largest number in the octal fields of sizes and times: eleven digits.
const OCTAL_MAX: u64 = 0o777_7777_7777;

/// The largest number in the octal fields of owners: seven digits.
const OCTAL_ID_MAX: u32 = 0o777_7777;

/// Sends the content of a directory as a tar stream.
pub(crate) fn pack(
    stream: &Stream,
    root: &str,
    path: &str,
    exclude: &[String],
) -> Result<(), Failure> {
    let action = || format!("pack `{path}`");
    let top = Root::open(root)?.directory(Path::new(path)).doing(action)?;
    let mut packer = Packer::new(StreamWriter::new(stream), exclude);
    let stat = fstat(&top).doing(action)?;
    let own = Path::new("./");
    let entry = Entry { directory: &top, name: OsStr::new("."), path: own, stat };
    packer.member(&entry).doing(action)?;
    let walked = top.try_clone().doing(action)?;
    tree::walk(walked, &mut packer)?;
    packer.finish().doing(action)
}

struct Packer<W> {
    writer: W,
    /// Paths that are omitted with everything below them.
    excluded: HashSet<PathBuf>,
    /// Directories that are kept without their content.
    emptied: HashSet<PathBuf>,
    /// The first name of each file that has several, by device and inode number.
    linked: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<W: Write> Packer<W> {
    fn new(writer: W, exclude: &[String]) -> Self {
        let clean = |path: &str| PathBuf::from(path.trim_start_matches("./").trim_matches('/'));
        let (emptied, excluded): (Vec<_>, Vec<_>) =
            exclude.iter().partition(|path| path.ends_with("/*"));
        Self {
            writer,
            excluded: excluded.into_iter().map(|path| clean(path)).collect(),
            emptied: emptied.into_iter().map(|path| clean(path.trim_end_matches("/*"))).collect(),
            linked: HashMap::new(),
            buffer: vec![0; DATA_MAX_BYTES],
        }
    }

    fn member(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let (kind, stat) = (entry.kind(), &entry.stat);
        // Names have the form of `tar -C TREE .`, in whose archives users look for `./etc/passwd`.
        let mut name = match entry.path.as_os_str().as_bytes() {
            own @ b"./" => own.to_vec(),
            below => [b"./", below].concat(),
        };
        let mut link = Vec::new();
        let entry_type = match kind {
            // An archive cannot contain a socket, on which a process listens.
            SFlag::S_IFSOCK => return Ok(()),
            SFlag::S_IFDIR => {
                if !name.ends_with(b"/") {
                    name.push(b'/');
                }
                EntryType::Directory
            }
            _ if stat.st_nlink > 1 && self.linked.contains_key(&(stat.st_dev, stat.st_ino)) => {
                link.clone_from(&self.linked[&(stat.st_dev, stat.st_ino)]);
                EntryType::Link
            }
            SFlag::S_IFLNK => {
                link = readlinkat(entry.directory, entry.name)?.into_vec();
                EntryType::Symlink
            }
            SFlag::S_IFCHR => EntryType::Char,
            SFlag::S_IFBLK => EntryType::Block,
            SFlag::S_IFIFO => EntryType::Fifo,
            _ => EntryType::Regular,
        };
        if entry_type != EntryType::Directory && entry_type != EntryType::Link && stat.st_nlink > 1
        {
            self.linked.insert((stat.st_dev, stat.st_ino), name.clone());
        }
        let xattrs = match entry_type {
            EntryType::Link => Vec::new(),
            _ => xattrs(entry)?,
        };
        let size = match entry_type {
            EntryType::Regular => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        };
        let records = records(&name, &link, size, stat, &xattrs);
        if !records.is_empty() {
            self.records(&records)?;
        }
        let mut header = header(&name, &link, size, stat, entry_type)?;
        header.set_cksum();
        self.writer.write_all(header.as_bytes())?;
        if entry_type == EntryType::Regular { self.content(entry, size) } else { Ok(()) }
    }

    fn records(&mut self, records: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        put_name(&mut header, b"././@PaxHeader", b"");
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.writer.write_all(header.as_bytes())?;
        self.writer.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn content(&mut self, entry: &Entry<'_>, size: u64) -> io::Result<()> {
        // O_NONBLOCK, because opening a pipe that has replaced the file meanwhile would block.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(entry.directory, entry.name, flags, Mode::empty())?);
        let mut left = size;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = file.read(&mut self.buffer[..room])?;
            if count == 0 {
                return Err(io::Error::other("it became shorter meanwhile"));
            }
            self.writer.write_all(&self.buffer[..count])?;
            left -= count as u64;
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let rest = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or(0);
        match rest {
            0 => Ok(()),
            _ => self.writer.write_all(&[0; BLOCK_BYTES][rest..]),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        self.writer.write_all(&[0; 2 * BLOCK_BYTES])
    }
}

impl Packer<StreamWriter<'_>> {
    fn finish(mut self) -> io::Result<()> {
        self.end()?;
        self.writer.finish()
    }
}

impl<W: Write> Visitor for Packer<W> {
    fn enter(&mut self, entry: &Entry<'_>) -> Result<Descend, Failure> {
        let parent = entry.path.parent().unwrap_or(Path::new(""));
        if self.excluded.contains(entry.path) || self.emptied.contains(parent) {
            return Ok(Descend::No);
        }
        let packed = self.member(entry);
        // The file was removed after it was listed.
        if packed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(Descend::No);
        }
        packed.doing(|| format!("pack `{}`", entry.path.display()))?;
        Ok(if self.emptied.contains(entry.path) { Descend::No } else { Descend::Yes })
    }
}

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

fn xattrs(entry: &Entry<'_>) -> nix::Result<Xattrs> {
    let path = proc_path(entry.directory, entry.name)?;
    let names = match sys::list_xattrs(&path) {
        Err(Errno::EOPNOTSUPP) => Vec::new(),
        other => other?,
    };
    let mut xattrs = Vec::new();
    for name in names {
        match sys::get_xattr(&path, &name) {
            Ok(value) => xattrs.push((name.into_bytes(), value)),
            Err(Errno::ENODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    xattrs.sort_unstable();
    Ok(xattrs)
}

/// Returns records of the values that do not fit into the header block.
fn records(name: &[u8], link: &[u8], size: u64, stat: &FileStat, xattrs: &Xattrs) -> Vec<u8> {
    let mut bytes = Vec::new();
    if name.len() > NAME_MAX_BYTES {
        record(&mut bytes, b"path", name);
    }
    if link.len() > NAME_MAX_BYTES {
        record(&mut bytes, b"linkpath", link);
    }
    if size > OCTAL_MAX {
        record(&mut bytes, b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], stat.st_uid), (b"gid", stat.st_gid)] {
        if id > OCTAL_ID_MAX {
            record(&mut bytes, key, id.to_string().as_bytes());
        }
    }
    if stat.st_mtime < 0 || stat.st_mtime_nsec != 0 {
        record(&mut bytes, b"mtime", time(stat.st_mtime, stat.st_mtime_nsec).as_bytes());
    }
    for (name, value) in xattrs {
        record(&mut bytes, &tar_stream::xattr_key(name), value);
    }
    bytes
}

/// Formats a time as a decimal number of seconds. The given seconds are rounded down, so the
/// fraction of a time before 1970 is what the nanoseconds lack to a full second.
fn time(seconds: i64, nanoseconds: i64) -> String {
    let (sign, whole, fraction) = match (seconds, nanoseconds) {
        (seconds, 0) => return seconds.to_string(),
        (0.., nanoseconds) => ("", seconds.unsigned_abs(), nanoseconds),
        (_, nanoseconds) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    };
    format!("{sign}{whole}.{fraction:09}").trim_end_matches('0').to_owned()
}

fn record(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length includes its own digits, so one more digit may make it longer again.
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    bytes.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        bytes.extend_from_slice(part);
    }
}

fn put_name(header: &mut Header, name: &[u8], link: &[u8]) {
    let old = header.as_old_mut();
    for (field, value) in [(&mut old.name, name), (&mut old.linkname, link)] {
        let count = value.len().min(field.len());
        field[..count].copy_from_slice(&value[..count]);
    }
}

fn header(
    name: &[u8],
    link: &[u8],
    size: u64,
    stat: &FileStat,
    entry_type: EntryType,
) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    put_name(&mut header, name, link);
    header.set_entry_type(entry_type);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid.min(OCTAL_ID_MAX)));
    header.set_gid(u64::from(stat.st_gid.min(OCTAL_ID_MAX)));
    header.set_size(size);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    if matches!(entry_type, EntryType::Char | EntryType::Block) {
        let number = |n: u64| u32::try_from(n).map_err(io::Error::other);
        header.set_device_major(number(major(stat.st_rdev))?)?;
        header.set_device_minor(number(minor(stat.st_rdev))?)?;
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for size in 0..1100 {
            let mut bytes = Vec::new();
            record(&mut bytes, b"k", &vec![b'v'; size]);
            let digits = bytes.iter().position(|byte| *byte == b' ').unwrap();
            let said: usize = std::str::from_utf8(&bytes[..digits]).unwrap().parse().unwrap();
            assert_eq!(said, bytes.len());
        }
    }

    #[test]
    fn times_keep_their_fractions() {
        assert_eq!(time(5, 0), "5");
        assert_eq!(time(-5, 0), "-5");
        assert_eq!(time(5, 500_000_000), "5.5");
        assert_eq!(time(5, 1), "5.000000001");
        // A quarter of a second before 1970, and before the second before that.
        assert_eq!(time(-1, 750_000_000), "-0.25");
        assert_eq!(time(-2, 750_000_000), "-1.25");
    }

    #[test]
    fn excludes_are_cleaned_and_split() {
        let exclude = ["./tmp/*", "/var/cache/", "a/b"].map(String::from);
        let packer = Packer::new(Vec::new(), &exclude);
        assert!(packer.emptied.contains(Path::new("tmp")));
        assert!(packer.excluded.contains(Path::new("var/cache")));
        assert!(packer.excluded.contains(Path::new("a/b")));
    }
}
