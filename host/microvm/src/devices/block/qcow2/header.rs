//! The header of a qcow2 file, and its tables of big-endian numbers.

use std::{
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
};

use super::{invalid, read_up_to};

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
/// Bytes of a version 3 header that vbuild knows: through the compression type.
const KNOWN_BYTES: usize = 112;
/// The format allows at most this many bytes of backing file name.
const BACKING_NAME_MAX_BYTES: u32 = 1023;
/// An L1 table beyond this describes a disk of more than 2 PiB; QEMU has the
/// same limit.
const L1_MAX_BYTES: u64 = 32 << 20;
/// The refcount table's limit, as in QEMU.
pub(super) const REFCOUNT_TABLE_MAX_BYTES: u64 = 8 << 20;
/// Header extension: the format of the backing file.
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Where new images keep their parts.
const NEW_CLUSTER_BITS: u32 = 16;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_EXTERNAL_DATA: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Zstd,
}

/// A parsed and checked header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Size of the disk in bytes.
    pub(crate) size: u64,
    l1_size: u32,
    pub(super) l1_offset: u64,
    pub(super) refcount_offset: u64,
    pub(super) refcount_clusters: u32,
    snapshots: u32,
    incompatible: u64,
    refcount_order: u32,
    pub(super) compression: Compression,
    backing: Option<Backing>,
}

/// What a header says about its backing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backing {
    /// As written; relative names are relative to the image.
    pub(crate) name: PathBuf,
    /// The format, where the header names it.
    pub(crate) format: Option<String>,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    field.map_or(0, u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at + 8).and_then(|field| field.try_into().ok());
    field.map_or(0, u64::from_be_bytes)
}

impl Header {
    /// Reads and checks the header of a file.
    pub(crate) fn read(file: &File) -> io::Result<Self> {
        let mut bytes = [0; KNOWN_BYTES];
        let got = read_up_to(file, &mut bytes, 0)?;
        if got < 72 || be32(&bytes, 0) != MAGIC {
            return Err(invalid("it is not a qcow2 image"));
        }
        let version = be32(&bytes, 4);
        let header_bytes = match version {
            2 => 72,
            3 if got >= 104 => u64::from(be32(&bytes, 100)),
            _ => return Err(invalid(format!("qcow2 version {version} is not known"))),
        };
        let v3 = |value: u64| if version >= 3 { value } else { 0 };
        let incompatible = v3(be64(&bytes, 72));
        let compression = match bytes[104] {
            _ if header_bytes <= 104 => Compression::Zlib,
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => return Err(invalid(format!("compression type {other} is not known"))),
        };
        let header = Self {
            version,
            cluster_bits: be32(&bytes, 20),
            size: be64(&bytes, 24),
            l1_size: be32(&bytes, 36),
            l1_offset: be64(&bytes, 40),
            refcount_offset: be64(&bytes, 48),
            refcount_clusters: be32(&bytes, 56),
            snapshots: be32(&bytes, 60),
            incompatible,
            refcount_order: if version >= 3 { be32(&bytes, 96) } else { 4 },
            compression,
            backing: None,
        };
        header.check(be32(&bytes, 32))?;
        let name = (be64(&bytes, 8), be32(&bytes, 16));
        let backing = header.read_backing(file, header_bytes, name)?;
        Ok(Self { backing, ..header })
    }

    fn check(&self, encryption: u32) -> io::Result<()> {
        if !(9..=21).contains(&self.cluster_bits) {
            return Err(invalid(format!("a cluster cannot have {} bits", self.cluster_bits)));
        }
        if encryption != 0 {
            return Err(invalid("encrypted images are not supported"));
        }
        let unknown = self.incompatible
            & !(INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT | INCOMPATIBLE_COMPRESSION);
        if unknown & INCOMPATIBLE_EXTERNAL_DATA != 0 {
            return Err(invalid("external data files are not supported"));
        }
        if unknown & INCOMPATIBLE_EXTENDED_L2 != 0 {
            return Err(invalid("extended L2 entries are not supported"));
        }
        if unknown != 0 {
            return Err(invalid(format!("incompatible features {unknown:#x} are not known")));
        }
        if self.incompatible & INCOMPATIBLE_CORRUPT != 0 {
            return Err(invalid("the image is marked as corrupt"));
        }
        let cluster = self.cluster_bytes();
        let per_l2 = cluster * (cluster / 8);
        if u64::from(self.l1_size) < self.size.div_ceil(per_l2) {
            return Err(invalid("the L1 table is shorter than the disk"));
        }
        if u64::from(self.l1_size) * 8 > L1_MAX_BYTES {
            return Err(invalid("the L1 table is too long"));
        }
        let aligned = |offset: u64| offset != 0 && offset.is_multiple_of(cluster);
        if !aligned(self.l1_offset) || !aligned(self.refcount_offset) {
            return Err(invalid("a table is not aligned"));
        }
        if u64::from(self.refcount_clusters) * cluster > REFCOUNT_TABLE_MAX_BYTES {
            return Err(invalid("the refcount table is too long"));
        }
        Ok(())
    }

    /// Refuses what vbuild can read but not write.
    pub(super) fn check_writable(&self) -> io::Result<()> {
        if self.snapshots != 0 {
            return Err(invalid("an image with internal snapshots can only be read"));
        }
        if self.incompatible & INCOMPATIBLE_DIRTY != 0 {
            return Err(invalid(
                "the image was not closed cleanly; `qemu-img check -r all` repairs it",
            ));
        }
        if self.refcount_order != 4 {
            return Err(invalid("only 16-bit reference counts can be written"));
        }
        Ok(())
    }

    /// Tells other programs that what they derived from the image is out of
    /// date: bitmaps and the like are bound to these bits.
    pub(super) fn clear_autoclear(&self, file: &File) -> io::Result<()> {
        const AUTOCLEAR_OFFSET: u64 = 88;
        if self.version >= 3 { file.write_all_at(&[0; 8], AUTOCLEAR_OFFSET) } else { Ok(()) }
    }

    /// Bytes of a cluster.
    pub(super) fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// The backing file, if the image has one.
    pub(crate) fn backing(&self) -> Option<&Backing> {
        self.backing.as_ref()
    }

    pub(super) fn read_l1(&self, file: &File) -> io::Result<Vec<u64>> {
        read_table(file, self.l1_offset, self.l1_size.into())
    }

    fn read_backing(
        &self,
        file: &File,
        header_bytes: u64,
        (offset, len): (u64, u32),
    ) -> io::Result<Option<Backing>> {
        if offset == 0 {
            return Ok(None);
        }
        if len > BACKING_NAME_MAX_BYTES || offset.saturating_add(len.into()) > self.cluster_bytes()
        {
            return Err(invalid("the backing file's name is out of place"));
        }
        let mut name = vec![0; len as usize];
        file.read_exact_at(&mut name, offset)?;
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(&name));
        Ok(Some(Backing { name, format: read_backing_format(file, header_bytes, offset)? }))
    }
}

/// Walks the header extensions, which lie between header and backing name.
fn read_backing_format(file: &File, mut at: u64, end: u64) -> io::Result<Option<String>> {
    /// More extensions than any image has.
    const EXTENSIONS_MAX: usize = 16;
    for _ in 0..EXTENSIONS_MAX {
        let mut head = [0; 8];
        if at + 8 > end || read_up_to(file, &mut head, at)? < 8 {
            return Ok(None);
        }
        let (kind, len) = (be32(&head, 0), be32(&head, 4));
        match kind {
            0 => return Ok(None),
            EXTENSION_BACKING_FORMAT if len <= 16 => {
                let mut name = vec![0; len as usize];
                file.read_exact_at(&mut name, at + 8)?;
                return Ok(Some(String::from_utf8_lossy(&name).into_owned()));
            }
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
    }
    Ok(None)
}

/// Reads a table of big-endian numbers.
pub(super) fn read_table(file: &File, offset: u64, entries: u64) -> io::Result<Vec<u64>> {
    let bytes = entries.checked_mul(8).and_then(|bytes| usize::try_from(bytes).ok());
    let mut raw = vec![0; bytes.ok_or_else(|| invalid("a table is too long"))?];
    file.read_exact_at(&mut raw, offset)?;
    Ok(raw.chunks_exact(8).map(|entry| be64(entry, 0)).collect())
}

/// Writes a table of big-endian numbers.
pub(super) fn write_table(file: &File, offset: u64, entries: &[u64]) -> io::Result<()> {
    let raw: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
    file.write_all_at(&raw, offset)
}

/// Writes an empty version 3 image over a backing file into `file`.
///
/// ```text
/// cluster 0   header, backing format, backing name
/// cluster 1   refcount table
/// cluster 2   first refcount block
/// cluster 3…  L1 table
/// ```
pub(crate) fn create(file: &File, size: u64, backing: &Path, format: &str) -> io::Result<()> {
    const HEADER_BYTES: u32 = 104;
    let name = backing.as_os_str().as_bytes();
    let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    if len > BACKING_NAME_MAX_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a backing file's name has at most {BACKING_NAME_MAX_BYTES} bytes"),
        ));
    }
    let cluster = 1u64 << NEW_CLUSTER_BITS;
    let l1_entries = size.div_ceil(cluster * (cluster / 8)).max(1);
    let l1_clusters = (l1_entries * 8).div_ceil(cluster);
    let l1_size = u32::try_from(l1_entries)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the disk is too large"))?;
    let mut head = Vec::new();
    let name_offset = HEADER_BYTES + 8 + 8 + 8; // header, one extension, end mark
    let words = |head: &mut Vec<u8>, words: &[u32]| {
        head.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    };
    words(&mut head, &[MAGIC, 3, 0, name_offset, len, NEW_CLUSTER_BITS]);
    head.extend(size.to_be_bytes());
    words(&mut head, &[0, l1_size]);
    head.extend((3 * cluster).to_be_bytes());
    head.extend(cluster.to_be_bytes());
    words(&mut head, &[1, 0, 0, 0]); // refcount clusters, snapshots
    head.extend([0; 24]); // features
    words(&mut head, &[4, HEADER_BYTES]);
    let mut padded = format.as_bytes().to_vec();
    let format_len = u32::try_from(padded.len()).unwrap_or(0);
    padded.resize(8, 0);
    words(&mut head, &[EXTENSION_BACKING_FORMAT, format_len]);
    head.extend(&padded);
    head.extend([0; 8]);
    head.extend(name);
    file.set_len((3 + l1_clusters) * cluster)?;
    file.write_all_at(&head, 0)?;
    file.write_all_at(&(2 * cluster).to_be_bytes(), cluster)?;
    let used = 3 + l1_clusters;
    let counts: Vec<u8> = (0..used).flat_map(|_| 1u16.to_be_bytes()).collect();
    file.write_all_at(&counts, 2 * cluster)
}
