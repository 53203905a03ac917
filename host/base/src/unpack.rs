//! Converts a published image file to a raw disk.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use liblzma::stream::{CONCATENATED, Stream};
use qcow2::BackingFormat;
use store::{Extent, ExtentSource, ExtentTarget, OverlaySource, RawSource, RawTarget};

use crate::{
    AllowedBacking, BaseError, Magic,
    backing::{self, Layer},
    blocks,
    limits::{DATA_MAX_BYTES, DISK_MAX_BYTES, Written},
    source::{self, ImageFile},
    unfinished, vmdk,
};

/// Minimum disk size; a smaller one cannot hold a filesystem.
const DISK_MIN_BYTES: u64 = 64 * 1024;
/// Maximum size of a decompressed file, with holes: a terabyte of zeros takes some minutes, and
/// compresses to a few megabytes.
const UNPACKED_MAX_BYTES: u64 = 1 << 40;
/// Memory limit of the xz decoder. The format allows dictionaries of 4 GiB; the largest preset, `xz
/// -9`, needs 65 MiB.
const XZ_MEMORY_MAX_BYTES: u64 = 256 << 20;
/// Base-2 logarithm of the maximum zstd window: 128 MiB, the default limit of `zstd -d`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// Bytes read per operation.
const READ_BYTES: usize = 256 << 10;

/// The format of a disk in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The file is the disk.
    Raw,
    /// QEMU's format, possibly with backing files.
    Qcow2,
    /// VMware's format.
    Vmdk,
    /// A format with a block table: VDI, VHD or VHDX.
    Blocks,
}

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Xz,
    Zstd,
}

/// An image with all of its open files.
#[derive(Debug)]
pub(crate) enum Chain {
    /// A raw disk, or the layers of a qcow2 image, topmost first.
    Layers(Vec<Layer>),
    /// VMware's disk.
    Vmdk(vmdk::Disk),
    /// VirtualBox's disk, or Hyper-V's.
    Blocks(blocks::Disk),
    /// A compressed file.
    Packed(ImageFile, Packing),
}

impl Chain {
    /// Detects the format of a file, and opens the files that it references.
    pub(crate) fn of(
        image: ImageFile,
        allowed: &AllowedBacking,
        folder: &Path,
    ) -> Result<Self, BaseError> {
        let refused = |reason: String| Err(BaseError::image(&image.path, reason));
        match image.magic()? {
            Some(Magic::Qcow2) => Ok(Self::Layers(backing::chain(image, allowed, folder)?)),
            Some(Magic::Vmdk) => Ok(Self::Vmdk(vmdk::Disk::open(image)?)),
            Some(Magic::Gzip) => Ok(Self::Packed(image, Packing::Gzip)),
            Some(Magic::Xz) => Ok(Self::Packed(image, Packing::Xz)),
            Some(Magic::Zstd) => Ok(Self::Packed(image, Packing::Zstd)),
            Some(magic @ (Magic::Vhdx | Magic::Vhd | Magic::Vdi)) => {
                Ok(Self::Blocks(blocks::Disk::of(image, magic)))
            }
            Some(magic @ (Magic::Qed | Magic::Parallels)) => {
                let advice = "convert it with `qemu-img convert -O qcow2`";
                refused(format!("it is a {} file; {advice}", magic.name()))
            }
            Some(Magic::Zip) => refused("it is a zip archive".to_owned()),
            Some(Magic::Bzip2) => refused("it is packed with bzip2; unpack it".to_owned()),
            None => match image.bytes()? {
                bytes if bytes < DISK_MIN_BYTES => {
                    refused(format!("{bytes} bytes are too few for a disk"))
                }
                _ if blocks::Disk::fixed_vhd(&image)? => {
                    Ok(Self::Blocks(blocks::Disk::of_fixed_vhd(image)))
                }
                _ => Ok(Self::Layers(vec![Layer { file: image, format: BackingFormat::Raw }])),
            },
        }
    }

    /// All files; the named one is first.
    pub(crate) fn files(&self) -> Box<dyn Iterator<Item = &ImageFile> + '_> {
        match self {
            Self::Layers(layers) => Box::new(layers.iter().map(|layer| &layer.file)),
            Self::Vmdk(disk) => Box::new(disk.files()),
            Self::Blocks(disk) => Box::new(std::iter::once(&disk.file)),
            Self::Packed(file, _) => Box::new(std::iter::once(file)),
        }
    }

    /// The format; `None` for a compressed file.
    pub(crate) fn format(&self) -> Option<Format> {
        match self {
            Self::Layers(layers) => layers.first().map(|layer| match layer.format {
                BackingFormat::Raw => Format::Raw,
                BackingFormat::Qcow2 => Format::Qcow2,
            }),
            Self::Vmdk(_) => Some(Format::Vmdk),
            Self::Blocks(_) => Some(Format::Blocks),
            Self::Packed(..) => None,
        }
    }
}

/// Writes the raw disk, and returns its size.
pub(crate) fn unpack(chain: &Chain, disks: &Path, raw: &Path) -> Result<u64, BaseError> {
    fs::create_dir_all(disks).map_err(|e| BaseError::io("create", disks, e))?;
    let before = stamps(chain)?;
    let unfinished =
        unfinished::directory(disks).map_err(|e| BaseError::io("write in", disks, e))?;
    let work = &unfinished.work;
    let made = work.path().join("disk.raw");
    match chain {
        Chain::Layers(layers) => write_layers(layers, &made)?,
        Chain::Vmdk(disk) => vmdk::unpack(disk, &made, &mut Written::default())?,
        Chain::Blocks(disk) => blocks::unpack(disk, &made, &mut Written::default())?,
        Chain::Packed(image, packing) => unpack_packed(image, *packing, work.path(), &made)?,
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
    if stamps(chain)? != before {
        let top = chain.files().next().map_or(raw, |file| &file.path);
        return Err(BaseError::image(top, "it has changed while it was read"));
    }
    source::make_way(raw);
    fs::rename(&made, raw).map_err(|e| BaseError::io("name", raw, e))?;
    Ok(bytes)
}

/// Writes the raw disk of a compressed image.
fn unpack_packed(
    image: &ImageFile,
    packing: Packing,
    work: &Path,
    made: &Path,
) -> Result<(), BaseError> {
    let inner = work.join("unpacked");
    decompress(image, packing, &inner)?;
    // The decompressed file is in its own folder, and may not have a backing file.
    let inside = ImageFile::named(&inner)
        .and_then(|inner| Chain::of(inner, &AllowedBacking::default(), work))
        .map_err(|error| within(error, &image.path))?;
    match &inside {
        Chain::Layers(layers) => write_layers(layers, made),
        Chain::Vmdk(disk) => vmdk::unpack(disk, made, &mut Written::default()),
        Chain::Blocks(disk) => blocks::unpack(disk, made, &mut Written::default()),
        Chain::Packed(..) => Err(BaseError::image(&image.path, "it is packed twice")),
    }
    .map_err(|error| within(error, &image.path))
}

/// Rewrites an error in the decompressed file to name the compressed one.
fn within(error: BaseError, path: &Path) -> BaseError {
    let reason = match error {
        BaseError::Image { reason, .. } => reason,
        BaseError::Backing { name, .. } => {
            format!("it has the backing file `{}`", name.display())
        }
        BaseError::Header { source, .. } => source.to_string(),
        error => return error,
    };
    BaseError::image(path, format!("what is packed in it: {reason}"))
}

fn stamps(chain: &Chain) -> Result<Vec<(u64, i64, i64)>, BaseError> {
    let stamp = |file: &ImageFile| {
        let metadata = file.metadata()?;
        Ok((metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
    };
    chain.files().map(stamp).collect()
}

fn write_layers(layers: &[Layer], to: &Path) -> Result<(), BaseError> {
    let open = |layer: &Layer| -> Result<Box<dyn ExtentSource>, BaseError> {
        let path = &layer.file.path;
        let file = layer.file.reopen().map_err(|e| BaseError::io("open", path, e))?;
        let source: Box<dyn ExtentSource> = match layer.format {
            BackingFormat::Qcow2 => Box::new(
                OverlaySource::new(file, path)
                    .map_err(|source| BaseError::Qcow2 { path: path.clone(), source })?,
            ),
            BackingFormat::Raw => {
                Box::new(RawSource::new(file).map_err(|e| BaseError::io("read", path, e))?)
            }
        };
        let bytes = source.disk_bytes();
        if !(DISK_MIN_BYTES..=DISK_MAX_BYTES).contains(&bytes) {
            return Err(BaseError::image(path, format!("its disk has {bytes} bytes")));
        }
        Ok(source)
    };
    let Some(top) = layers.first() else { return Ok(()) };
    let bytes = open(top)?.disk_bytes();
    let target = |source| BaseError::Qcow2 { path: to.to_owned(), source };
    let mut disk = RawTarget::create(to, bytes).map_err(target)?;
    let mut written = Written::default();
    for layer in layers.iter().rev() {
        let (path, mut source) = (&layer.file.path, open(layer)?);
        // A backing file may be larger than the disk.
        while let Some(extent) = source.next_extent().map_err(|e| BaseError::io("read", path, e))?
            && let Some(extent) = clip(extent, bytes)
        {
            written.add(path, &extent)?;
            disk.extent(&extent).map_err(|e| BaseError::io("write", to, e))?;
        }
    }
    Ok(())
}

/// The part of an extent within the disk: a backing file may be larger.
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

/// Decompresses a file, with holes for runs of zeros.
fn decompress(image: &ImageFile, packing: Packing, to: &Path) -> Result<(), BaseError> {
    let from = &image.path;
    let failed = |error| BaseError::io("unpack", from, error);
    let input = BufReader::with_capacity(READ_BYTES, image.rewound().map_err(failed)?);
    let mut reader = reader(packing, input).map_err(failed)?;
    let out = File::create(to).map_err(|e| BaseError::io("create", to, e))?;
    let mut buffer = vec![0; READ_BYTES];
    let (mut at, mut data) = (0_u64, 0_u64);
    loop {
        let count = fill(&mut *reader, &mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        if buffer[..count].iter().any(|byte| *byte != 0) {
            out.write_all_at(&buffer[..count], at).map_err(|e| BaseError::io("write", to, e))?;
            data += count as u64;
        }
        at += count as u64;
        for (bytes, limit) in [(at, UNPACKED_MAX_BYTES), (data, DATA_MAX_BYTES)] {
            if bytes > limit {
                let reason = format!("what is packed in it is larger than {} GiB", limit >> 30);
                return Err(BaseError::image(from, reason));
            }
        }
    }
    out.set_len(at).and_then(|()| (&out).flush()).map_err(|e| BaseError::io("write", to, e))
}

/// A decompressor with a memory limit.
fn reader(packing: Packing, input: impl BufRead + 'static) -> io::Result<Box<dyn Read>> {
    Ok(match packing {
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Packing::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY_MAX_BYTES, CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Packing::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
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
