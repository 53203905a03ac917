//! Reads a tar stream into members: one header with everything that records
//! before it said about it.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::{BLOCK_BYTES, XATTR_PREFIX};

/// The largest set of records before a header. An attribute value may have
/// 64 KiB; a file has a handful.
const RECORDS_MAX_BYTES: u64 = 1024 * 1024;

/// A member of an archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since the epoch.
    pub(super) time: (i64, i64),
    pub(super) size: u64,
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What records say about the next member.
#[derive(Debug, Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    time: Option<(i64, i64)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tar stream.
#[derive(Debug)]
pub(super) struct Reader<R> {
    inner: R,
    /// Bytes of the current member's content, and of the padding after it.
    left: u64,
    padding: u64,
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl<R: Read> Reader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// The next member; its content is then what [`Read`] gives.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut records = Records::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size()?;
            self.start(size);
            match header.entry_type() {
                EntryType::XHeader => parse_records(&self.records(size)?, &mut records)?,
                // Whole-archive records only tell a comment in practice.
                EntryType::XGlobalHeader => self.skip()?,
                EntryType::GNULongName => records.path = Some(c_string(self.records(size)?)),
                EntryType::GNULongLink => records.link = Some(c_string(self.records(size)?)),
                kind => return self.member(&header, kind, records).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, kind: EntryType, records: Records) -> io::Result<Member> {
        let small = |number: u64, what| {
            u32::try_from(number).map_err(|_| broken(format!("{what} out of range")))
        };
        let size = match kind {
            EntryType::Regular | EntryType::Continuous => {
                records.size.map_or_else(|| header.entry_size(), Ok)?
            }
            // Some writers put a size on links, and no content behind it.
            EntryType::Link | EntryType::Symlink | EntryType::Directory => 0,
            _ => header.entry_size()?,
        };
        self.start(size);
        let time = records.time.map_or_else(
            || Ok::<_, io::Error>((i64::try_from(header.mtime()?).unwrap_or(0), 0)),
            Ok,
        )?;
        let device = match kind {
            EntryType::Char | EntryType::Block => {
                let (major, minor) = (header.device_major()?, header.device_minor()?);
                (major.unwrap_or_default(), minor.unwrap_or_default())
            }
            // Writers may leave the fields empty where they mean nothing.
            _ => (0, 0),
        };
        let link = || header.link_name_bytes().unwrap_or_default().into_owned();
        Ok(Member {
            kind,
            path: records.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link: records.link.unwrap_or_else(link),
            mode: header.mode()? & 0o7777,
            uid: records.uid.map_or_else(|| small(header.uid()?, "owner"), Ok)?,
            gid: records.gid.map_or_else(|| small(header.gid()?, "group"), Ok)?,
            time,
            size,
            device,
            xattrs: records.xattrs,
        })
    }

    fn start(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES as u64) - size;
    }

    /// The next header block; `None` at the end, when all that follows is read.
    fn header(&mut self) -> io::Result<Option<Header>> {
        self.skip()?;
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.inner.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(broken("the archive ends within a header")),
                count => filled += count,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            // The end of the archive; writers pad it with more zeros.
            io::copy(&mut self.inner, &mut io::sink())?;
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(index, byte)| if (148..156).contains(&index) { 32 } else { u32::from(*byte) })
            .sum();
        let header = Header::from_byte_slice(&block).clone();
        if header.cksum()? != sum {
            return Err(broken("a header has the wrong checksum"));
        }
        Ok(Some(header))
    }

    fn records(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > RECORDS_MAX_BYTES {
            return Err(broken(format!("{size} bytes of records before a member")));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Passes over what is left of the current member.
    fn skip(&mut self) -> io::Result<()> {
        let left = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        let skipped = io::copy(&mut self.inner.by_ref().take(left), &mut io::sink())?;
        if skipped < left {
            return Err(broken("the archive ends within a member"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let count = self.inner.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(broken("the archive ends within a member"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// Parses `LENGTH KEY=VALUE\n` records, where the length counts all of it.
fn parse_records(mut bytes: &[u8], records: &mut Records) -> io::Result<()> {
    while !bytes.is_empty() {
        let (key, value, rest) =
            split_record(bytes).ok_or_else(|| broken("a record is not well formed"))?;
        bytes = rest;
        let number = || {
            let text = std::str::from_utf8(value).ok();
            text.and_then(|text| text.parse::<u64>().ok())
                .ok_or_else(|| broken(format!("bad number in `{}`", String::from_utf8_lossy(key))))
        };
        let small = || number().and_then(|n| u32::try_from(n).map_err(|_| broken("bad owner")));
        match key {
            b"path" => records.path = Some(value.to_vec()),
            b"linkpath" => records.link = Some(value.to_vec()),
            b"size" => records.size = Some(number()?),
            b"uid" => records.uid = Some(small()?),
            b"gid" => records.gid = Some(small()?),
            b"mtime" => records.time = parse_time(value),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    records.xattrs.push((name.to_vec(), value.to_vec()));
                } else if key.starts_with(b"GNU.sparse.") {
                    return Err(broken("sparse members of GNU tar are not supported"));
                }
            }
        }
    }
    Ok(())
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
    let record = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[length..]))
}

/// Parses a decimal number of seconds.
fn parse_time(value: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => (seconds - 1, 1_000_000_000 - nanoseconds),
        _ => (seconds, nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_split_by_their_length() {
        let bytes = b"11 uid=1000\n".as_slice();
        assert!(split_record(bytes).is_none(), "the length is one short");
        let mut records = Records::default();
        let value = b"a\nb=c\0";
        let mut bytes = b"13 uid=70000\n".to_vec();
        bytes.extend(format!("{} SCHILY.xattr.user.x=", 3 + 20 + value.len() + 1).bytes());
        bytes.extend(value);
        bytes.push(b'\n');
        parse_records(&bytes, &mut records).unwrap();
        assert_eq!(records.uid, Some(70000));
        assert_eq!(records.xattrs, [(b"user.x".to_vec(), value.to_vec())]);
    }

    #[test]
    fn hostile_records_are_refused() {
        for bytes in [&b"5 a"[..], b"99 a=b\n", b" a=b\n", b"0 a=b\n", b"6 a=bc", b"9 uid=-1\n"] {
            assert!(parse_records(bytes, &mut Records::default()).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(parse_time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(parse_time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(parse_time(b"7"), Some((7, 0)));
        assert_eq!(parse_time(b"x"), None);
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let mut header = Header::new_ustar();
        header.set_path("file").unwrap();
        header.set_size(600);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([1; 100]);
        let mut reader = Reader::new(bytes.as_slice());
        assert_eq!(reader.next().unwrap().unwrap().size, 600);
        assert!(reader.next().is_err());
        assert!(Reader::new(&bytes[..300]).next().is_err());
        assert!(Reader::new(&[7; 512][..]).next().is_err());
        assert!(Reader::new(&[][..]).next().unwrap().is_none());
    }
}
