//! qcow2, written front to back in one pass.
//!
//! ```text
//!  cluster 0    header (last of all)
//!  cluster 1…   data clusters and L2 tables as they come; compressed clusters
//!               packed byte by byte
//!  at the end   L1 table, refcount blocks, refcount table
//! ```
//!
//! Empty clusters are not allocated. There are no snapshots and no backing file. Options that this
//! writer does not support are passed to `qemu-img`, if the host has it.

mod layout;
mod options;

use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};

use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    disk_input::DiskInput,
    format::{Format, Origin, Writer},
    pool::Ordered,
    source::{Stride, is_zero},
};
use layout::Image;
use options::{Options, Packing, delegate, needs};

pub(crate) const FORMAT: Format = Format {
    name: "qcow2",
    suffix: "qcow2",
    about: "QEMU's format, compressed unless -u is given",
    origin: Origin::Disk,
    container: None,
    max_bytes: u64::MAX,
    sequential: false,
    needs,
    write: Writer::Disk(write),
};

/// Window size of the deflate streams. The format fixes it: readers refuse matches further back
/// than 4 KiB.
const WINDOW_BITS: u8 = 12;

/// zstd's default level; higher ones cost much time for a few percent.
const ZSTD_LEVEL: i32 = 3;

/// A cluster with its storage form.
#[derive(Debug)]
enum Cluster {
    /// All zeros: not stored.
    Empty,
    /// Stored uncompressed.
    Plain,
    /// Stored compressed, which is smaller.
    Packed(Vec<u8>),
}

pub(crate) fn write(input: &mut DiskInput<'_>, out: &mut OutFile, target: &Target) -> Result<()> {
    if needs(target)?.is_some() {
        return delegate(input, out, target);
    }
    let options = Options::parse(target)?;
    let cluster_bytes = options.cluster_bytes();
    let packing = options.packing;
    let mut image = Image::new(options, input.len())?;
    let mut pool = Ordered::new(move |stride: Arc<Stride>| {
        let pack = |data: &[u8]| pack(data, packing, cluster_bytes);
        let clusters = stride.data.chunks(cluster_bytes).map(pack).collect::<Vec<_>>();
        (stride, clusters)
    });
    while let Some(stride) = input.next_stride()? {
        if let Some(done) = pool.push(stride)? {
            store(&mut image, out, &done)?;
        }
    }
    while let Some(done) = pool.pop()? {
        store(&mut image, out, &done)?;
    }
    image.finish(out)
}

fn store(image: &mut Image, out: &mut OutFile, done: &(Arc<Stride>, Vec<Cluster>)) -> Result<()> {
    let (stride, clusters) = done;
    let size = image.cluster_bytes();
    let first = stride.offset / size as u64;
    for ((index, data), cluster) in (first..).zip(stride.data.chunks(size)).zip(clusters) {
        match cluster {
            Cluster::Empty => {}
            Cluster::Plain => image.put_plain(out, index, data)?,
            Cluster::Packed(packed) => image.put_packed(out, index, packed)?,
        }
    }
    Ok(())
}

/// Decides how a cluster is stored; runs on the thread pool.
fn pack(data: &[u8], packing: Packing, cluster_bytes: usize) -> Cluster {
    if is_zero(data) {
        return Cluster::Empty;
    }
    // The last cluster of a disk may be short, but readers decompress a whole one.
    let mut padded;
    let whole = if data.len() < cluster_bytes {
        padded = data.to_vec();
        padded.resize(cluster_bytes, 0);
        &padded
    } else {
        data
    };
    let packed = match packing {
        Packing::Plain => None,
        Packing::Zlib => deflate(whole),
        Packing::Zstd => zstd::bulk::compress(whole, ZSTD_LEVEL).ok(),
    };
    // Compress only if it saves space.
    match packed.filter(|p| p.len() < cluster_bytes) {
        Some(packed) => Cluster::Packed(packed),
        None => Cluster::Plain,
    }
}

/// Deflates data with the format's window; `None` if the result is not smaller.
fn deflate(data: &[u8]) -> Option<Vec<u8>> {
    let mut compressor = Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS);
    let mut packed = Vec::with_capacity(data.len());
    let status = compressor.compress_vec(data, &mut packed, FlushCompress::Finish);
    matches!(status, Ok(Status::StreamEnd)).then_some(packed)
}

pub(crate) fn bad_option(target: &Target, option: &str, reason: impl Into<String>) -> OutputError {
    let (option, reason) = (option.to_owned(), reason.into());
    OutputError::BadOption { format: target.format.name, option, reason }
}
