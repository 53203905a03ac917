//! Reads VMware's disks: a sparse file, a stream of compressed grains, or a descriptor text that
//! names the files of a disk.
//!
//! ```text
//!   directory ─► tables of 512 ─► grains of 64 KiB (0: hole, 1: zeros)
//! ```

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use flate2::read::ZlibDecoder;
use store::{Extent, ExtentSource, ExtentTarget, RawSource, RawTarget};

use crate::{
    BaseError,
    limits::{DISK_MAX_BYTES, Written},
    source::ImageFile,
};

const SECTOR: u64 = 512;
/// The directory offset that means "see the footer".
const AT_END: u64 = u64::MAX;
/// Maximum grain size in sectors; VMware's grains are smaller.
const GRAIN_MAX_SECTORS: u64 = 2048;
/// Maximum entries of a grain table.
const TABLE_MAX_ENTRIES: u32 = 4096;
/// Maximum directory entries: 16 TiB with the smallest tables in use.
const DIRECTORY_MAX: u64 = 1 << 20;
/// Maximum files of one disk: 16 TiB need half as many files of 2 GiB, the size into which VMware
/// splits disks.
const EXTENTS_MAX: usize = 4096;
/// Maximum size of a descriptor: a line for each of [`EXTENTS_MAX`] files. Most are a page of text.
const DESCRIPTOR_MAX_BYTES: u64 = 1 << 20;
/// Header flag (bit 16): grains are deflated.
const COMPRESSED: u32 = 1 << 16;

/// An extent file of a disk, as the descriptor names it.
#[derive(Debug)]
struct Named {
    sectors: u64,
    kind: String,
    file: Option<ImageFile>,
    /// Start of the data in a flat file, in sectors.
    from: u64,
}

/// A disk with all of its open files.
#[derive(Debug)]
pub(crate) struct Disk {
    top: ImageFile,
    /// The extent files that the descriptor names; `None` for a disk in one file.
    extents: Option<Vec<Named>>,
}

impl Disk {
    /// Opens a disk and the files that its descriptor names.
    pub(crate) fn open(top: ImageFile) -> Result<Self, BaseError> {
        let extents = if is_sparse(&top)? { None } else { Some(descriptor(&top)?) };
        Ok(Self { top, extents })
    }

    /// All files; the descriptor is first.
    pub(crate) fn files(&self) -> impl Iterator<Item = &ImageFile> {
        let extents = self.extents.iter().flatten().filter_map(|named| named.file.as_ref());
        std::iter::once(&self.top).chain(extents)
    }
}

fn is_sparse(image: &ImageFile) -> Result<bool, BaseError> {
    let mut head = [0; 4];
    let read = image.file.read_exact_at(&mut head, 0);
    read.map_err(|e| BaseError::io("read", &image.path, e))?;
    Ok(&head == b"KDMV")
}

/// Whether a file has a name that VMware gives to an extent of this descriptor's disk: `disk.vmdk`
/// names `disk-flat.vmdk`, `disk-s001.vmdk` and the like. No other file is read, whatever the
/// descriptor contains.
fn is_part(descriptor: &Path, name: &str) -> bool {
    let stem = descriptor.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let part = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-'));
    let part = part.and_then(|rest| rest.strip_suffix(".vmdk"));
    !stem.is_empty() && part.is_some_and(|part| !part.is_empty() && !part.contains('/'))
}

fn descriptor(image: &ImageFile) -> Result<Vec<Named>, BaseError> {
    let path = &image.path;
    let mut text = String::new();
    let read = image
        .rewound()
        .and_then(|file| file.take(DESCRIPTOR_MAX_BYTES + 1).read_to_string(&mut text));
    let bytes = read.map_err(|e| BaseError::io("read", path, e))?;
    check_length(path, bytes as u64)?;
    check_parent(path, &text)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let Some(rest) = ["RW ", "RDONLY "].iter().find_map(|word| line.strip_prefix(word)) else {
            continue;
        };
        let damaged = || BaseError::image(path, format!("its line `{line}` is unknown"));
        if found.len() >= EXTENTS_MAX {
            let reason = format!("it names more than {EXTENTS_MAX} files");
            return Err(BaseError::image(path, reason));
        }
        let mut words = rest.splitn(3, ' ');
        let sectors = words.next().and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
        let kind = words.next().ok_or_else(damaged)?.to_owned();
        let mut tail = words.next().unwrap_or_default().split('"');
        let name = tail.nth(1).map(str::to_owned);
        let from = tail.next().map(str::trim).filter(|text| !text.is_empty()).unwrap_or("0");
        let from = from.parse().map_err(|_| damaged())?;
        let file = match (kind.as_str(), name) {
            ("ZERO", _) => None,
            ("FLAT" | "SPARSE" | "VMFS", Some(name)) if is_part(path, &name) => {
                Some(ImageFile::beside(&folder.join(name))?)
            }
            ("FLAT" | "SPARSE" | "VMFS", Some(name)) => {
                let stem = path.file_stem().unwrap_or_default().display();
                let reason = format!(
                    "it names the file `{name}`, but the parts of its disk are named \
                     `{stem}-….vmdk`"
                );
                return Err(BaseError::image(path, reason));
            }
            _ => return Err(damaged()),
        };
        found.push(Named { sectors, kind, file, from });
    }
    if found.is_empty() {
        return Err(BaseError::image(path, "it names no files of a disk"));
    }
    Ok(found)
}

/// Refuses a descriptor that is not read as a whole.
fn check_length(path: &Path, bytes: u64) -> Result<(), BaseError> {
    if bytes > DESCRIPTOR_MAX_BYTES {
        let reason = format!("its descriptor is longer than {} MiB", DESCRIPTOR_MAX_BYTES >> 20);
        return Err(BaseError::image(path, reason));
    }
    Ok(())
}

fn check_parent(path: &Path, text: &str) -> Result<(), BaseError> {
    let parent = text.lines().find_map(|line| line.trim().strip_prefix("parentCID="));
    match parent.map(|id| id.trim().to_ascii_lowercase()) {
        Some(id) if id != "ffffffff" => {
            Err(BaseError::image(path, "it is a snapshot that depends on another file"))
        }
        _ => Ok(()),
    }
}

/// Writes the raw disk.
pub(crate) fn unpack(source: &Disk, to: &Path, limits: &mut Written) -> Result<(), BaseError> {
    let path = &source.top.path;
    let too_large = || BaseError::image(path, "its disk has an impossible size");
    let create = |bytes: u64| {
        if bytes == 0 || bytes > DISK_MAX_BYTES {
            return Err(too_large());
        }
        RawTarget::create(to, bytes)
            .map_err(|source| BaseError::Qcow2 { path: to.to_owned(), source })
    };
    let mut disk;
    let Some(files) = &source.extents else {
        let sparse = Sparse::open(&source.top)?;
        disk = create(sparse.capacity.checked_mul(SECTOR).ok_or_else(too_large)?)?;
        return sparse.copy(0, &mut Target { disk: &mut disk, to, limits });
    };
    let sectors = files.iter().try_fold(0_u64, |sum, named| sum.checked_add(named.sectors));
    disk = create(sectors.and_then(|sum| sum.checked_mul(SECTOR)).ok_or_else(too_large)?)?;
    let mut target = Target { disk: &mut disk, to, limits };
    let mut at = 0;
    for named in files {
        let bytes = named.sectors * SECTOR;
        match (named.kind.as_str(), &named.file) {
            ("SPARSE", Some(file)) => {
                let sparse = Sparse::open(file)?;
                if sparse.capacity > named.sectors {
                    let reason = "it is larger than its descriptor says";
                    return Err(BaseError::image(&file.path, reason));
                }
                sparse.copy(at, &mut target)?;
            }
            (_, Some(file)) => copy_flat(file, named.from, bytes, at, &mut target)?,
            _ => {}
        }
        at += bytes;
    }
    Ok(())
}

/// The raw disk being written.
struct Target<'a> {
    disk: &'a mut RawTarget,
    to: &'a Path,
    limits: &'a mut Written,
}

impl Target<'_> {
    fn write(&mut self, from: &Path, extent: &Extent) -> Result<(), BaseError> {
        self.limits.add(from, extent)?;
        self.disk.extent(extent).map_err(|e| BaseError::io("write", self.to, e))
    }
}

/// Copies the data of a flat extent.
fn copy_flat(
    image: &ImageFile,
    from: u64,
    bytes: u64,
    at: u64,
    target: &mut Target<'_>,
) -> Result<(), BaseError> {
    let path = &image.path;
    let read = |error| BaseError::io("read", path, error);
    let mut source = image.reopen().and_then(RawSource::new).map_err(read)?;
    let start = from.checked_mul(SECTOR).ok_or_else(|| BaseError::image(path, "its offset"))?;
    let end = start.saturating_add(bytes);
    source.skip_to(start);
    while let Some(extent) = source.next_extent().map_err(read)? {
        let Extent::Data { offset, bytes } = extent else { continue };
        let (first, last) = (offset.max(start), (offset + bytes.len() as u64).min(end));
        if offset >= end {
            break;
        }
        if first >= last {
            continue;
        }
        let cut = |place: u64| usize::try_from(place - offset).unwrap_or(usize::MAX);
        let part = bytes[cut(first)..cut(last)].to_vec();
        target.write(path, &Extent::Data { offset: at + (first - start), bytes: part })?;
    }
    Ok(())
}

/// A sparse extent.
struct Sparse {
    path: PathBuf,
    file: File,
    capacity: u64,
    grain_sectors: u64,
    entries: u32,
    directory: u64,
    compressed: bool,
}

impl Sparse {
    fn open(image: &ImageFile) -> Result<Self, BaseError> {
        let path = &image.path;
        let bad = |reason: &str| BaseError::image(path, reason);
        let file = image.reopen().map_err(|e| BaseError::io("open", path, e))?;
        let read = |at: u64| -> Result<[u8; 512], BaseError> {
            let mut header = [0; 512];
            file.read_exact_at(&mut header, at).map_err(|e| BaseError::io("read", path, e))?;
            if &header[..4] == b"KDMV" { Ok(header) } else { Err(bad("its header is damaged")) }
        };
        let mut header = read(0)?;
        let descriptor = (u64_at(&header, 28), u64_at(&header, 36));
        if u64_at(&header, 56) == AT_END {
            let footer =
                image.bytes()?.checked_sub(2 * SECTOR).ok_or_else(|| bad("it is cut off"))?;
            header = read(footer)?;
        }
        let flags = u32_at(&header, 8);
        let compressed = flags & COMPRESSED != 0;
        if compressed && u16::from_le_bytes([header[77], header[78]]) != 1 {
            return Err(bad("it is packed in an unknown way"));
        }
        let sparse = Self {
            path: path.to_owned(),
            capacity: u64_at(&header, 12),
            grain_sectors: u64_at(&header, 20),
            entries: u32_at(&header, 44),
            directory: u64_at(&header, 56),
            compressed,
            file,
        };
        if !(1..=GRAIN_MAX_SECTORS).contains(&sparse.grain_sectors)
            || !(1..=TABLE_MAX_ENTRIES).contains(&sparse.entries)
        {
            return Err(bad("its grains have an impossible size"));
        }
        sparse.check_descriptor(descriptor)?;
        Ok(sparse)
    }

    fn check_descriptor(&self, (at, sectors): (u64, u64)) -> Result<(), BaseError> {
        let bytes = sectors.saturating_mul(SECTOR);
        if at == 0 || bytes == 0 {
            return Ok(());
        }
        check_length(&self.path, bytes)?;
        let mut text = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.read(&mut text, at.saturating_mul(SECTOR))?;
        check_parent(&self.path, &String::from_utf8_lossy(&text))
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), BaseError> {
        self.file.read_exact_at(buffer, at).map_err(|e| BaseError::io("read", &self.path, e))
    }

    fn table(&self, sector: u64, entries: u64) -> Result<Vec<u32>, BaseError> {
        let mut bytes = vec![0; usize::try_from(entries * 4).unwrap_or_default()];
        self.read(&mut bytes, sector.saturating_mul(SECTOR))?;
        Ok(bytes.chunks_exact(4).map(|chunk| u32_at(chunk, 0)).collect())
    }

    /// Copies allocated grains to a disk, at offset `at`.
    fn copy(&self, at: u64, target: &mut Target<'_>) -> Result<(), BaseError> {
        let bad = |reason: &str| BaseError::image(&self.path, reason);
        let covered = self.grain_sectors * u64::from(self.entries);
        let tables = self.capacity.div_ceil(covered);
        if tables > DIRECTORY_MAX {
            return Err(bad("its disk has an impossible size"));
        }
        for (index, table) in (0_u64..).zip(self.table(self.directory, tables)?) {
            if table == 0 {
                continue;
            }
            let grains = self.table(u64::from(table), u64::from(self.entries))?;
            for (slot, grain) in (0_u64..).zip(grains) {
                let first = index * covered + slot * self.grain_sectors;
                // 0 is a hole and 1 a grain of zeros; the target already reads as zeros.
                if grain <= 1 || first >= self.capacity {
                    continue;
                }
                let sectors = self.grain_sectors.min(self.capacity - first);
                let mut bytes = self.grain(u64::from(grain))?;
                bytes.truncate(usize::try_from(sectors * SECTOR).unwrap_or_default());
                let extent = Extent::Data { offset: at + first * SECTOR, bytes };
                target.write(&self.path, &extent)?;
            }
        }
        Ok(())
    }

    fn grain(&self, sector: u64) -> Result<Vec<u8>, BaseError> {
        let length = usize::try_from(self.grain_sectors * SECTOR).unwrap_or_default();
        let mut bytes = vec![0; length];
        if !self.compressed {
            self.read(&mut bytes, sector * SECTOR)?;
            return Ok(bytes);
        }
        let mut head = [0; 12];
        self.read(&mut head, sector * SECTOR)?;
        let packed = usize::try_from(u32_at(&head, 8)).unwrap_or(usize::MAX);
        if packed > 2 * length + 1024 {
            return Err(BaseError::image(&self.path, "a grain is too large"));
        }
        let mut input = vec![0; packed];
        self.read(&mut input, sector * SECTOR + 12)?;
        let unpack = |error: io::Error| BaseError::io("unpack", &self.path, error);
        ZlibDecoder::new(input.as_slice()).read_exact(&mut bytes).map_err(unpack)?;
        Ok(bytes)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |part| u32::from_le_bytes(part.try_into().unwrap_or_default()))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |part| u64::from_le_bytes(part.try_into().unwrap_or_default()))
}
