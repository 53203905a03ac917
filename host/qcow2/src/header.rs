//! The header of a qcow2 file, in its first cluster.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
};

use crate::{
    L1_MAX_BYTES, REFCOUNT_TABLE_MAX_BYTES,
    file::{be32, be64, read_up_to},
};

/// The first bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Length of a version 2 header, and the minimum length of a file.
const V2_BYTES: usize = 72;
/// Length of a version 3 header without the compression type.
const V3_MIN_BYTES: usize = 104;
/// Length of a version 3 header as this crate writes it, with the compression type.
const V3_BYTES: usize = 112;
/// The format's maximum length of a backing file name in bytes.
const BACKING_NAME_MAX_BYTES: u32 = 1023;
/// Maximum header extensions; the format defines fewer.
const EXTENSIONS_MAX: usize = 16;
/// Header extension: end of the extensions.
const EXTENSION_END: u32 = 0;
/// Header extension: the format of the backing file.
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
/// Header extension: the name of an external data file.
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Clusters of 2^16 bytes, as `qemu-img` makes by default.
const NEW_CLUSTER_BITS: u32 = 16;
/// Refcounts of 2^4 bits, the only width that this crate writes.
const NEW_REFCOUNT_ORDER: u32 = 4;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_EXTERNAL_DATA: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1;

/// Why a header is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file does not begin with the magic.
    #[error("it is not a qcow2 image")]
    NotQcow2,
    /// A version other than 2 and 3.
    #[error("qcow2 version {0} is not known")]
    Version(u32),
    /// A cluster size outside of 512 bytes to 2 MiB.
    #[error("a cluster cannot have {0} bits")]
    ClusterBits(u32),
    /// The header length is below the minimum or exceeds the first cluster.
    #[error("its header cannot have {0} bytes")]
    HeaderBytes(u32),
    /// Encryption by AES or LUKS.
    #[error("encrypted images are not supported")]
    Encrypted,
    /// The data is in an external data file.
    #[error("its data is in another file (an external data file), which is not supported")]
    ExternalData,
    /// L2 entries with subclusters.
    #[error("extended L2 entries are not supported")]
    ExtendedL2,
    /// Unknown incompatible features.
    #[error("incompatible features {0:#x} are not known")]
    UnknownFeatures(u64),
    /// QEMU has detected damage and marked the image.
    #[error("the image is marked as corrupt; `qemu-img check -r all` may repair it")]
    Corrupt,
    /// A compression type that is unknown or contradicts the feature bit.
    #[error("compression type {0} is not known")]
    CompressionType(u8),
    /// Refcounts of more than 64 bits.
    #[error("a reference count cannot have 2^{0} bits")]
    RefcountOrder(u32),
    /// The L1 table has too few entries for the disk.
    #[error("the L1 table is shorter than the disk")]
    L1Short,
    /// The L1 table exceeds [`L1_MAX_BYTES`].
    #[error("the L1 table is too long")]
    L1Long,
    /// A table does not begin at a cluster boundary.
    #[error("a table is not aligned")]
    Unaligned,
    /// The refcount table exceeds [`REFCOUNT_TABLE_MAX_BYTES`].
    #[error("the refcount table is too long")]
    RefcountsLong,
    /// A header extension exceeds its area, or there are too many.
    #[error("a header extension is invalid")]
    Extension,
    /// The backing file name is too long or exceeds the first cluster.
    #[error("the backing file name is invalid")]
    BackingName,
    /// An image that must not have a backing file names one.
    #[error(
        "its header names the backing file `{}`, and vbuild opens no file because an image names it",
        .0.display()
    )]
    Backing(PathBuf),
    /// The backing file is neither raw nor qcow2.
    #[error("backing format `{0}` is not supported")]
    BackingFormat(String),
}

impl From<HeaderError> for io::Error {
    fn from(error: HeaderError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// The compression of compressed clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A raw deflate stream with a window of 4 KiB.
    Zlib,
    /// A zstd frame.
    Zstd,
}

/// The supported formats of a backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackingFormat {
    /// The file content is the disk.
    Raw,
    /// A qcow2 file.
    Qcow2,
}

impl BackingFormat {
    /// The format's name in the header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// The backing file named in a header. This crate never opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The name as written; a relative one is relative to the image's directory.
    pub name: PathBuf,
    /// The format, if the header names it.
    pub format: Option<BackingFormat>,
}

/// A header that uses only features supported by vbuild.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The version: 2 or 3.
    pub version: u32,
    /// Base-2 logarithm of the cluster size in bytes: 9 to 21.
    pub cluster_bits: u32,
    /// Size of the disk in bytes.
    pub disk_bytes: u64,
    /// Number of L1 table entries, enough for the disk.
    pub l1_entries: u32,
    /// Offset of the L1 table in bytes, cluster-aligned.
    pub l1_offset: u64,
    /// Offset of the refcount table in bytes, cluster-aligned.
    pub refcount_offset: u64,
    /// Number of clusters of the refcount table.
    pub refcount_clusters: u32,
    /// Base-2 logarithm of the refcount width in bits: 0 to 6.
    pub refcount_order: u32,
    /// Number of internal snapshots.
    pub snapshots: u32,
    /// Offset of the table of internal snapshots.
    pub snapshots_offset: u64,
    /// The image was not closed properly: refcounts may be wrong.
    pub dirty: bool,
    /// Refcounts may be outdated while the image is open.
    pub lazy_refcounts: bool,
    /// The compression of compressed clusters.
    pub compression: Compression,
    /// The backing file, if the image has one.
    pub backing: Option<Backing>,
}

impl Header {
    /// The header of a new version 3 image with clusters of 64 KiB and 16-bit refcounts. The
    /// offsets of its tables are set later.
    #[must_use]
    pub fn new(disk_bytes: u64, backing: Option<Backing>) -> Self {
        Self {
            version: 3,
            cluster_bits: NEW_CLUSTER_BITS,
            disk_bytes,
            l1_entries: 0,
            l1_offset: 0,
            refcount_offset: 0,
            refcount_clusters: 0,
            refcount_order: NEW_REFCOUNT_ORDER,
            snapshots: 0,
            snapshots_offset: 0,
            dirty: false,
            lazy_refcounts: false,
            compression: Compression::Zlib,
            backing,
        }
    }

    /// Reads and checks the header of a file.
    ///
    /// # Errors
    /// `InvalidData` with a [`HeaderError`] for a refused header, and any error of the file.
    pub fn read(file: &File) -> io::Result<Self> {
        let mut head = vec![0; V3_BYTES];
        let got = read_up_to(file, &mut head, 0)?;
        head.truncate(got);
        let cluster_bits = cluster_bits(&head)?;
        head.resize(1 << cluster_bits, 0);
        let got = read_up_to(file, &mut head, 0)?;
        head.truncate(got);
        Ok(Self::parse(&head)?)
    }

    /// Parses and checks a header.
    ///
    /// `head` is the first cluster of the file, or the whole file if that is shorter.
    ///
    /// # Errors
    /// Fails on the first field that is unknown, unsupported or out of range.
    pub fn parse(head: &[u8]) -> Result<Self, HeaderError> {
        let cluster_bits = cluster_bits(head)?;
        let head = &head[..head.len().min(1 << cluster_bits)];
        let version = be32(head, 4);
        let header_bytes = match version {
            2 => V2_BYTES,
            3 => v3_header_bytes(head)?,
            other => return Err(HeaderError::Version(other)),
        };
        if be32(head, 32) != 0 {
            return Err(HeaderError::Encrypted);
        }
        let v3 = version >= 3;
        let incompatible = if v3 { be64(head, 72) } else { 0 };
        check_features(incompatible)?;
        let header = Self {
            version,
            cluster_bits,
            disk_bytes: be64(head, 24),
            l1_entries: be32(head, 36),
            l1_offset: be64(head, 40),
            refcount_offset: be64(head, 48),
            refcount_clusters: be32(head, 56),
            refcount_order: if v3 { be32(head, 96) } else { NEW_REFCOUNT_ORDER },
            snapshots: be32(head, 60),
            snapshots_offset: be64(head, 64),
            dirty: incompatible & INCOMPATIBLE_DIRTY != 0,
            lazy_refcounts: v3 && be64(head, 80) & COMPATIBLE_LAZY_REFCOUNTS != 0,
            compression: compression(head, header_bytes, incompatible)?,
            backing: backing(head, header_bytes)?,
        };
        header.check_tables()?;
        Ok(header)
    }

    fn check_tables(&self) -> Result<(), HeaderError> {
        if self.refcount_order > 6 {
            return Err(HeaderError::RefcountOrder(self.refcount_order));
        }
        let cluster = self.cluster_bytes();
        if u64::from(self.l1_entries) < self.disk_bytes.div_ceil(cluster * (cluster / 8)) {
            return Err(HeaderError::L1Short);
        }
        if u64::from(self.l1_entries) * 8 > L1_MAX_BYTES {
            return Err(HeaderError::L1Long);
        }
        if u64::from(self.refcount_clusters) * cluster > REFCOUNT_TABLE_MAX_BYTES {
            return Err(HeaderError::RefcountsLong);
        }
        let aligned = |offset: u64| offset != 0 && offset.is_multiple_of(cluster);
        if !aligned(self.l1_offset) || !aligned(self.refcount_offset) {
            return Err(HeaderError::Unaligned);
        }
        Ok(())
    }

    /// Refuses an image that needs another file.
    ///
    /// # Errors
    /// [`HeaderError::Backing`] with the file's name.
    pub fn check_standalone(&self) -> Result<(), HeaderError> {
        match &self.backing {
            None => Ok(()),
            Some(backing) => Err(HeaderError::Backing(backing.name.clone())),
        }
    }

    /// Refuses an image that can only be read.
    ///
    /// # Errors
    /// Fails with the reason and the command that makes the image writable.
    pub fn check_writable(&self) -> Result<(), &'static str> {
        if self.snapshots != 0 {
            return Err("an image with internal snapshots can only be read");
        }
        if self.dirty {
            return Err("the image was not closed cleanly; `qemu-img check -r all` repairs it");
        }
        if self.refcount_order != NEW_REFCOUNT_ORDER {
            return Err("only 16-bit reference counts can be written");
        }
        Ok(())
    }

    /// Clears the autoclear features in the file, as every writer must: data of other programs,
    /// such as bitmaps, becomes outdated.
    ///
    /// # Errors
    /// Any error of the file.
    pub fn clear_autoclear(&self, file: &File) -> io::Result<()> {
        const AUTOCLEAR_OFFSET: u64 = 88;
        if self.version >= 3 { file.write_all_at(&[0; 8], AUTOCLEAR_OFFSET) } else { Ok(()) }
    }

    /// The cluster size in bytes: 512 to 2 MiB.
    #[must_use]
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Reads the L1 table, at most [`L1_MAX_BYTES`].
    ///
    /// # Errors
    /// Any error of the file; `UnexpectedEof` if it ends within the table.
    pub fn read_l1(&self, file: &File) -> io::Result<Vec<u64>> {
        crate::read_table(file, self.l1_offset, self.l1_entries.into())
    }

    /// Serializes the header with its extensions and the backing file name.
    ///
    /// # Errors
    /// [`HeaderError::BackingName`] if the name is too long for the format or for the first
    /// cluster.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HeaderError> {
        let name = self.backing.as_ref().map_or(&b""[..], |b| b.name.as_os_str().as_bytes());
        let format = self.backing.as_ref().and_then(|backing| backing.format);
        let mut extensions = Vec::new();
        if let Some(name) = format.map(BackingFormat::name) {
            extensions.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
            extensions.extend((name.len() as u64).to_be_bytes()[4..].iter());
            extensions.extend(name.as_bytes());
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        }
        extensions.extend([0; 8]); // EXTENSION_END
        let header_bytes = if self.version >= 3 { V3_BYTES } else { V2_BYTES };
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let name_at = (header_bytes + extensions.len()) as u64;
        if name_len > BACKING_NAME_MAX_BYTES || name_at + u64::from(name_len) > self.cluster_bytes()
        {
            return Err(HeaderError::BackingName);
        }
        let name_at = if name.is_empty() { 0 } else { name_at };
        let mut out = self.fields(name_at, name_len);
        out.extend(extensions);
        out.extend(name);
        Ok(out)
    }

    fn fields(&self, name_at: u64, name_len: u32) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.version.to_be_bytes());
        out.extend(name_at.to_be_bytes());
        out.extend(name_len.to_be_bytes());
        out.extend(self.cluster_bits.to_be_bytes());
        out.extend(self.disk_bytes.to_be_bytes());
        out.extend([0; 4]); // no encryption
        out.extend(self.l1_entries.to_be_bytes());
        out.extend(self.l1_offset.to_be_bytes());
        out.extend(self.refcount_offset.to_be_bytes());
        out.extend(self.refcount_clusters.to_be_bytes());
        out.extend(self.snapshots.to_be_bytes());
        out.extend(self.snapshots_offset.to_be_bytes());
        if self.version >= 3 {
            let zstd = self.compression == Compression::Zstd;
            let dirty = if self.dirty { INCOMPATIBLE_DIRTY } else { 0 };
            let zstd_bit = if zstd { INCOMPATIBLE_COMPRESSION } else { 0 };
            let lazy = if self.lazy_refcounts { COMPATIBLE_LAZY_REFCOUNTS } else { 0 };
            for features in [dirty | zstd_bit, lazy, 0] {
                out.extend(features.to_be_bytes());
            }
            out.extend(self.refcount_order.to_be_bytes());
            out.extend((V3_BYTES as u64).to_be_bytes()[4..].iter());
            out.extend([u8::from(zstd), 0, 0, 0, 0, 0, 0, 0]);
        }
        out
    }
}

/// Checks the magic, and returns the cluster size as a base-2 logarithm.
fn cluster_bits(head: &[u8]) -> Result<u32, HeaderError> {
    if head.len() < V2_BYTES || !head.starts_with(&MAGIC) {
        return Err(HeaderError::NotQcow2);
    }
    let bits = be32(head, 20);
    if (9..=21).contains(&bits) { Ok(bits) } else { Err(HeaderError::ClusterBits(bits)) }
}

fn v3_header_bytes(head: &[u8]) -> Result<usize, HeaderError> {
    if head.len() < V3_MIN_BYTES {
        return Err(HeaderError::NotQcow2);
    }
    let told = be32(head, 100);
    let bytes = usize::try_from(told).unwrap_or(usize::MAX);
    if bytes < V3_MIN_BYTES || bytes > head.len() || !bytes.is_multiple_of(8) {
        return Err(HeaderError::HeaderBytes(told));
    }
    Ok(bytes)
}

fn check_features(incompatible: u64) -> Result<(), HeaderError> {
    if incompatible & INCOMPATIBLE_EXTERNAL_DATA != 0 {
        return Err(HeaderError::ExternalData);
    }
    if incompatible & INCOMPATIBLE_EXTENDED_L2 != 0 {
        return Err(HeaderError::ExtendedL2);
    }
    let unknown =
        incompatible & !(INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT | INCOMPATIBLE_COMPRESSION);
    if unknown != 0 {
        return Err(HeaderError::UnknownFeatures(unknown));
    }
    if incompatible & INCOMPATIBLE_CORRUPT != 0 {
        return Err(HeaderError::Corrupt);
    }
    Ok(())
}

fn compression(
    head: &[u8],
    header_bytes: usize,
    incompatible: u64,
) -> Result<Compression, HeaderError> {
    let kind = if header_bytes > V3_MIN_BYTES { head[V3_MIN_BYTES] } else { 0 };
    match (kind, incompatible & INCOMPATIBLE_COMPRESSION != 0) {
        (0, false) => Ok(Compression::Zlib),
        (1, true) => Ok(Compression::Zstd),
        _ => Err(HeaderError::CompressionType(kind)),
    }
}

/// Parses the backing file name and the extensions, which precede it.
fn backing(head: &[u8], header_bytes: usize) -> Result<Option<Backing>, HeaderError> {
    let (offset, len) = (be64(head, 8), be32(head, 16));
    let name = match (offset, len) {
        (0, _) => None,
        (_, len) if len > BACKING_NAME_MAX_BYTES => return Err(HeaderError::BackingName),
        (offset, len) => {
            let start = usize::try_from(offset).map_err(|_| HeaderError::BackingName)?;
            let end = start.checked_add(len as usize).ok_or(HeaderError::BackingName)?;
            Some((start, head.get(start..end).ok_or(HeaderError::BackingName)?))
        }
    };
    let end = name.map_or(head.len(), |(start, _)| start);
    let extensions = head.get(header_bytes..end).ok_or(HeaderError::BackingName)?;
    let format = backing_format(extensions)?;
    Ok(name
        .filter(|(_, name)| !name.is_empty())
        .map(|(_, name)| Backing { name: PathBuf::from(OsStr::from_bytes(name)), format }))
}

/// Walks the extensions and returns the format of the backing file.
fn backing_format(mut area: &[u8]) -> Result<Option<BackingFormat>, HeaderError> {
    let mut format = None;
    for _ in 0..EXTENSIONS_MAX {
        if area.len() < 8 {
            return Ok(format);
        }
        let (kind, len) = (be32(area, 0), be32(area, 4) as usize);
        if kind == EXTENSION_END {
            return Ok(format);
        }
        let data = area[8..].get(..len).ok_or(HeaderError::Extension)?;
        match kind {
            EXTENSION_DATA_FILE => return Err(HeaderError::ExternalData),
            EXTENSION_BACKING_FORMAT => {
                format = Some(match data {
                    b"raw" => BackingFormat::Raw,
                    b"qcow2" => BackingFormat::Qcow2,
                    other => {
                        let name = String::from_utf8_lossy(&other[..other.len().min(16)]);
                        return Err(HeaderError::BackingFormat(name.escape_debug().to_string()));
                    }
                });
            }
            _ => {}
        }
        area = area.get(8 + len.next_multiple_of(8)..).unwrap_or_default();
    }
    Err(HeaderError::Extension)
}

/// Writes an empty version 3 image of this size to an empty file.
///
/// ```text
/// cluster 0   header, backing format, backing name
/// cluster 1   refcount table
/// cluster 2   first refcount block
/// cluster 3…  L1 table
/// ```
///
/// # Errors
/// `InvalidInput` for a disk that is too large or a backing file name that is too long, and any
/// error of the file.
pub fn create_layer(file: &File, disk_bytes: u64, backing: Option<Backing>) -> io::Result<()> {
    let input = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let mut header = Header::new(disk_bytes, backing);
    let cluster = header.cluster_bytes();
    let l1_entries = disk_bytes.div_ceil(cluster * (cluster / 8)).max(1);
    if l1_entries * 8 > L1_MAX_BYTES {
        return Err(input("the disk is too large".to_owned()));
    }
    header.l1_entries = u32::try_from(l1_entries).map_err(io::Error::other)?;
    header.l1_offset = 3 * cluster;
    header.refcount_offset = cluster;
    header.refcount_clusters = 1;
    let head = header.to_bytes().map_err(|_| {
        input(format!("a backing file's name has at most {BACKING_NAME_MAX_BYTES} bytes"))
    })?;
    let used = 3 + (l1_entries * 8).div_ceil(cluster);
    file.set_len(used * cluster)?;
    file.write_all_at(&head, 0)?;
    file.write_all_at(&(2 * cluster).to_be_bytes(), cluster)?;
    let counts: Vec<u8> = (0..used).flat_map(|_| 1u16.to_be_bytes()).collect();
    file.write_all_at(&counts, 2 * cluster)
}

impl Backing {
    /// A backing file with path and format.
    #[must_use]
    pub fn new(name: &Path, format: BackingFormat) -> Self {
        Self { name: name.to_owned(), format: Some(format) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn image(disk_bytes: u64, backing: Option<Backing>) -> File {
        let file = tempfile::tempfile().unwrap();
        create_layer(&file, disk_bytes, backing).unwrap();
        file
    }

    fn good() -> Vec<u8> {
        let backing = Backing::new(Path::new("base.raw"), BackingFormat::Raw);
        let file = image(1 << 30, Some(backing));
        let mut head = vec![0; 1 << 16];
        file.read_exact_at(&mut head, 0).unwrap();
        head
    }

    #[test]
    fn what_is_written_is_read() {
        let backing = Backing::new(Path::new("dir/base.qcow2"), BackingFormat::Qcow2);
        let header = Header::read(&image(5 << 30, Some(backing.clone()))).unwrap();
        assert_eq!(header.backing, Some(backing));
        assert_eq!((header.disk_bytes, header.version), (5 << 30, 3));
        assert_eq!(header.check_writable(), Ok(()));
        let header = Header::read(&image(1, None)).unwrap();
        assert_eq!((header.backing, header.l1_entries), (None, 1));
        let long = Backing::new(Path::new(&"x".repeat(1024)), BackingFormat::Raw);
        let file = tempfile::tempfile().unwrap();
        let error = create_layer(&file, 1, Some(long)).unwrap_err();
        assert!(error.to_string().contains("1023"), "{error}");
    }

    #[test]
    fn everything_beyond_the_closed_set_is_refused() {
        let cases: [(usize, &[u8], HeaderError); 18] = [
            (0, b"X", HeaderError::NotQcow2),
            (4, &[0, 0, 0, 4], HeaderError::Version(4)),
            (20, &[0, 0, 0, 40], HeaderError::ClusterBits(40)),
            (20, &[0, 0, 0, 8], HeaderError::ClusterBits(8)),
            (32, &[0, 0, 0, 1], HeaderError::Encrypted),
            (36, &[0, 0, 0, 0], HeaderError::L1Short),
            (36, &[0xff; 4], HeaderError::L1Long),
            (47, &[1], HeaderError::Unaligned),
            (56, &[0xff; 4], HeaderError::RefcountsLong),
            (72, &[0, 0, 0, 0, 0, 0, 0, 2], HeaderError::Corrupt),
            (72, &[0, 0, 0, 0, 0, 0, 0, 4], HeaderError::ExternalData),
            (72, &[0, 0, 0, 0, 0, 0, 0, 16], HeaderError::ExtendedL2),
            (72, &[1, 0, 0, 0, 0, 0, 0, 0], HeaderError::UnknownFeatures(1 << 56)),
            (96, &[0, 0, 0, 7], HeaderError::RefcountOrder(7)),
            (100, &[0, 0, 0, 96], HeaderError::HeaderBytes(96)),
            (104, &[1], HeaderError::CompressionType(1)),
            (112, &0x4441_5441_u32.to_be_bytes(), HeaderError::ExternalData),
            (120, b"vmd", HeaderError::BackingFormat("vmd".into())),
        ];
        for (at, bytes, expected) in cases {
            let mut bad = good();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Header::parse(&bad), Err(expected));
        }
        let mut far = good();
        far[8..16].copy_from_slice(&65_530_u64.to_be_bytes());
        assert_eq!(Header::parse(&far), Err(HeaderError::BackingName));
        let mut extension = good();
        extension[116..120].copy_from_slice(&60_000_u32.to_be_bytes());
        assert_eq!(Header::parse(&extension), Err(HeaderError::Extension));
        assert_eq!(Header::parse(b"QFI\xfb"), Err(HeaderError::NotQcow2));
    }

    #[test]
    fn an_external_data_file_is_refused_with_and_without_its_feature_bit() {
        // The extension alone: a later program could set the feature bit.
        let mut header = good();
        header[112..116].copy_from_slice(&EXTENSION_DATA_FILE.to_be_bytes());
        assert_eq!(Header::parse(&header), Err(HeaderError::ExternalData));
    }

    proptest! {
        /// Random bytes over a valid header give a header or an error.
        #[test]
        fn hostile_headers(
            bytes in prop::collection::vec((0usize..160, any::<u8>()), 0..24),
            len in 0usize..512,
        ) {
            let mut head = good();
            head.truncate(len);
            for (at, byte) in bytes {
                if let Some(place) = head.get_mut(at) {
                    *place = byte;
                }
            }
            crate::fuzz::image(&head);
        }
    }
}
