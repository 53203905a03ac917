//! From a file as it is published to a raw disk.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use store::{Extent, ExtentSource, ExtentTarget, OverlaySource, RawSource, RawTarget};

use crate::{BaseError, Magic, vmdk};

/// Files that a qcow2 image may stand on; a longer chain is a mistake, or a loop.
const CHAIN_MAX: usize = 32;
/// What is smaller than this holds no filesystem.
const DISK_MIN_BYTES: u64 = 64 * 1024;
/// The largest disk: what ext4 can hold with its usual blocks. It bounds what a
/// few compressed bytes can turn into.
const DISK_MAX_BYTES: u64 = 16 << 40;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Offset and size of a qcow2 file's header, as far as it is read.
const HEADER_BYTES: usize = 4096;
/// The header extension with the format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// How a disk stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The file is the disk.
    Raw,
    /// QEMU's format, perhaps over other files.
    Qcow2,
    /// VMware's.
    Vmdk,
}

impl Format {
    /// As QEMU calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Xz,
    Zstd,
}

/// A file and those that it stands on.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The topmost first.
    pub(crate) files: Vec<PathBuf>,
    /// `None` for a compressed file.
    pub(crate) format: Option<Format>,
    packing: Option<Packing>,
}

/// What a file is, by how it begins.
enum Found {
    Disk(Format),
    Packed(Packing),
}

fn look(path: &Path) -> Result<Found, BaseError> {
    let file = File::open(path).map_err(|e| BaseError::io("open", path, e))?;
    let bytes = file.metadata().map_err(|e| BaseError::io("open", path, e))?.len();
    let claimed = Magic::read(file).map_err(|e| BaseError::io("read", path, e))?;
    let refused = |reason: String| Err(BaseError::image(path, reason));
    match claimed {
        Some(Magic::Qcow2) => Ok(Found::Disk(Format::Qcow2)),
        Some(Magic::Vmdk) => Ok(Found::Disk(Format::Vmdk)),
        Some(Magic::Gzip) => Ok(Found::Packed(Packing::Gzip)),
        Some(Magic::Xz) => Ok(Found::Packed(Packing::Xz)),
        Some(Magic::Zstd) => Ok(Found::Packed(Packing::Zstd)),
        Some(magic @ (Magic::Vhdx | Magic::Vhd | Magic::Vdi | Magic::Qed | Magic::Parallels)) => {
            let advice = "convert it with `qemu-img convert -O qcow2`";
            refused(format!("it is a {} file; {advice}", magic.name()))
        }
        Some(Magic::Zip) => refused("it is a zip archive".to_owned()),
        Some(Magic::Bzip2) => refused("it is packed with bzip2; unpack it".to_owned()),
        None if bytes < DISK_MIN_BYTES => refused(format!("{bytes} bytes are too few for a disk")),
        None => Ok(Found::Disk(Format::Raw)),
    }
}

/// Finds out what a file is and what it stands on.
pub(crate) fn chain(path: &Path) -> Result<Chain, BaseError> {
    let format = match look(path)? {
        Found::Packed(packing) => {
            return Ok(Chain {
                files: vec![path.to_owned()],
                format: None,
                packing: Some(packing),
            });
        }
        Found::Disk(format) => format,
    };
    let mut files = vec![path.to_owned()];
    if format == Format::Vmdk {
        files.extend(vmdk::extents(path)?);
    }
    let mut top = path.to_owned();
    let mut next = format;
    while next == Format::Qcow2 {
        let Some((behind, named)) = backing(&top)? else { break };
        if files.len() >= CHAIN_MAX {
            return Err(BaseError::image(
                path,
                format!("it stands on more than {CHAIN_MAX} files"),
            ));
        }
        // Its content alone must not make vbuild read another file of the user:
        // a guest can write such a header into its raw disk.
        if top.extension().is_none_or(|extension| extension != "qcow2") {
            let reason = "it stands on another file, but its name does not end in .qcow2";
            return Err(BaseError::image(top, reason));
        }
        next = match named.as_deref() {
            Some("raw") => Format::Raw,
            Some("qcow2") => Format::Qcow2,
            Some(other) => {
                return Err(BaseError::image(
                    top,
                    format!("it stands on a file of format {other}"),
                ));
            }
            None => match look(&behind)? {
                Found::Disk(format @ (Format::Raw | Format::Qcow2)) => format,
                _ => return Err(BaseError::image(top, "it stands on a file that is no disk")),
            },
        };
        files.push(behind.clone());
        top = behind;
    }
    Ok(Chain { files, format: Some(format), packing: None })
}

/// The file behind a qcow2 image, and its format where that is said.
fn backing(path: &Path) -> Result<Option<(PathBuf, Option<String>)>, BaseError> {
    let file = File::open(path).map_err(|e| BaseError::io("open", path, e))?;
    let mut head = Vec::new();
    file.take(HEADER_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(|e| BaseError::io("read", path, e))?;
    let damaged = || BaseError::image(path, "its header is damaged");
    let number = |at: usize, bytes: usize| {
        let part = head.get(at..at + bytes)?;
        Some(part.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte)))
    };
    let place = |number: u64| usize::try_from(number).map_err(|_| damaged());
    let (at, length) = number(8, 8).zip(number(16, 4)).ok_or_else(damaged)?;
    if at == 0 || length == 0 {
        return Ok(None);
    }
    let (at, length) = (place(at)?, place(length)?);
    let name = at.checked_add(length).and_then(|end| head.get(at..end)).ok_or_else(damaged)?;
    let name = std::str::from_utf8(name).map_err(|_| damaged())?;
    if name.contains(':') {
        return Err(BaseError::image(path, format!("it stands on `{name}`, which is no file")));
    }
    let mut format = None;
    let mut here = match number(4, 4) {
        Some(3) => place(number(100, 4).ok_or_else(damaged)?)?,
        _ => 72,
    };
    while let Some((kind, bytes)) = number(here, 4).zip(number(here + 4, 4)) {
        let bytes = place(bytes)?;
        if kind == 0 || here + 8 + bytes > head.len() {
            break;
        }
        if kind == u64::from(BACKING_FORMAT) {
            let text = String::from_utf8_lossy(&head[here + 8..here + 8 + bytes]);
            format = Some(text.into_owned());
        }
        here += 8 + bytes.next_multiple_of(8);
    }
    let behind = path.parent().unwrap_or(Path::new("/")).join(name);
    let behind = fs::canonicalize(&behind).map_err(|e| BaseError::io("open", behind, e))?;
    Ok(Some((behind, format)))
}

/// Makes the raw disk; gives its size.
pub(crate) fn unpack(chain: &Chain, disks: &Path, raw: &Path) -> Result<u64, BaseError> {
    fs::create_dir_all(disks).map_err(|e| BaseError::io("create", disks, e))?;
    let before = stamps(&chain.files)?;
    let work = tempfile::Builder::new()
        .prefix("part-")
        .tempdir_in(disks)
        .map_err(|e| BaseError::io("write in", disks, e))?;
    let made = work.path().join("disk.raw");
    match chain.packing {
        None => write_disk(chain, &made)?,
        Some(packing) => {
            let top = &chain.files[0];
            let inner = work.path().join("unpacked");
            decompress(top, packing, &inner)?;
            // What was packed is a file of its own, so it has no name, and
            // may stand on nothing.
            let inside = self::chain(&inner).map_err(|error| match error {
                BaseError::Image { reason, .. } => {
                    BaseError::image(top, format!("what is packed in it: {reason}"))
                }
                error => error,
            })?;
            if inside.packing.is_some() {
                return Err(BaseError::image(top, "it is packed twice"));
            }
            write_disk(&inside, &made)?;
        }
    }
    let file = fs::OpenOptions::new().write(true).open(&made);
    let finish = || -> io::Result<u64> {
        let file = file?;
        let bytes = file.metadata()?.len().next_multiple_of(512);
        file.set_len(bytes)?;
        file.sync_all()?;
        Ok(bytes)
    };
    let bytes = finish().map_err(|e| BaseError::io("write", &made, e))?;
    if stamps(&chain.files)? != before {
        return Err(BaseError::image(&chain.files[0], "it has changed while it was read"));
    }
    fs::rename(&made, raw).map_err(|e| BaseError::io("name", raw, e))?;
    Ok(bytes)
}

fn stamps(files: &[PathBuf]) -> Result<Vec<(u64, i64, i64)>, BaseError> {
    files
        .iter()
        .map(|file| {
            let metadata = fs::metadata(file).map_err(|e| BaseError::io("open", file, e))?;
            Ok((metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
        })
        .collect()
}

fn write_disk(chain: &Chain, to: &Path) -> Result<(), BaseError> {
    let top = &chain.files[0];
    if chain.format == Some(Format::Vmdk) {
        return vmdk::unpack(top, to, DISK_MAX_BYTES);
    }
    let layer = |path: &Path, index: usize| -> Result<Box<dyn ExtentSource>, BaseError> {
        let is_qcow2 = chain.format == Some(Format::Qcow2)
            && (index + 1 < chain.files.len() || begins_as_qcow2(path));
        let error = |source| BaseError::Qcow2 { path: path.to_owned(), source };
        Ok(if is_qcow2 {
            Box::new(OverlaySource::open(path).map_err(error)?)
        } else {
            Box::new(RawSource::open(path).map_err(error)?)
        })
    };
    let bytes = layer(top, 0)?.disk_bytes();
    if !(DISK_MIN_BYTES..=DISK_MAX_BYTES).contains(&bytes) {
        return Err(BaseError::image(top, format!("its disk has {bytes} bytes")));
    }
    let target = |source| BaseError::Qcow2 { path: to.to_owned(), source };
    let mut disk = RawTarget::create(to, bytes).map_err(target)?;
    for (index, path) in chain.files.iter().enumerate().rev() {
        let mut source = layer(path, index)?;
        loop {
            let read = source.next_extent().map_err(|e| BaseError::io("read", path, e))?;
            let Some(extent) = read else { break };
            let Some(extent) = clip(extent, bytes) else { continue };
            disk.extent(&extent).map_err(|e| BaseError::io("write", to, e))?;
        }
    }
    Ok(())
}

/// The last file of a chain is raw or qcow2; the ones above it are qcow2.
fn begins_as_qcow2(path: &Path) -> bool {
    let mut head = [0; 4];
    File::open(path).and_then(|file| file.read_exact_at(&mut head, 0)).is_ok()
        && head == qcow2::MAGIC
}

/// What of an extent lies on the disk: a file behind may be larger.
fn clip(extent: Extent, disk_bytes: u64) -> Option<Extent> {
    if extent.end() <= disk_bytes {
        return Some(extent);
    }
    let room = disk_bytes.checked_sub(extent.offset()).filter(|room| *room > 0)?;
    Some(match extent {
        Extent::Data { offset, mut bytes } => {
            bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
            Extent::Data { offset, bytes }
        }
        Extent::Zeros { offset, .. } => Extent::Zeros { offset, length: room },
    })
}

/// Unpacks a compressed file, leaving holes where it has zeros.
fn decompress(from: &Path, packing: Packing, to: &Path) -> Result<(), BaseError> {
    let file = File::open(from).map_err(|e| BaseError::io("open", from, e))?;
    let input = BufReader::with_capacity(READ_BYTES, file);
    let mut reader: Box<dyn Read> = match packing {
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Packing::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(input)),
        Packing::Zstd => Box::new(
            zstd::Decoder::with_buffer(input).map_err(|e| BaseError::io("unpack", from, e))?,
        ),
    };
    let out = File::create(to).map_err(|e| BaseError::io("create", to, e))?;
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0_u64;
    loop {
        let count = match fill(&mut *reader, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Err(BaseError::io("unpack", from, error)),
        };
        if buffer[..count].iter().any(|byte| *byte != 0) {
            out.write_all_at(&buffer[..count], at).map_err(|e| BaseError::io("write", to, e))?;
        }
        at += count as u64;
        if at > DISK_MAX_BYTES {
            return Err(BaseError::image(from, "what is packed in it is too large"));
        }
    }
    out.set_len(at).and_then(|()| (&out).flush()).map_err(|e| BaseError::io("write", to, e))
}

fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
