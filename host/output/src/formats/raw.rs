//! Writes the raw disk, with holes where it is empty.
//!
//! The build's own disk is renamed if it is not needed afterwards and is on the same filesystem.
//! Otherwise the kernel copies its data extents, and shares blocks on filesystems that support it.
//! Checksums need all bytes, and therefore use the strides.

use std::{fs::File, os::unix::fs::MetadataExt};

use nix::fcntl::copy_file_range;

use crate::{
    OutputError, Result, Target,
    atomic::{OutFile, directory_of},
    disk_input::DiskInput,
    format::{Format, Origin, Writer, no_options},
    source::is_zero,
};

pub(crate) const FORMAT: Format = Format {
    name: "raw",
    suffix: "raw",
    about: "the disk as it is, sparse",
    origin: Origin::Disk,
    container: None,
    max_bytes: u64::MAX,
    sequential: true,
    needs: no_options,
    write: Writer::Disk(write),
};

/// Minimum size of a hole: the block size of common filesystems, below which a hole saves nothing.
const HOLE_BYTES: usize = 4096;

/// Bytes copied by the kernel per call; cancellation is checked in between.
const COPY_BYTES: u64 = 64 << 20;

pub(crate) fn write(input: &mut DiskInput<'_>, out: &mut OutFile, target: &Target) -> Result<()> {
    let source = input.source;
    if let Some((path, file)) = source.raw_file() {
        if target.adopt && same_filesystem(file, out) {
            // Dropping the unused temporary file leaves no trace.
            *out = OutFile::adopt(path, &target.path)?;
            return Ok(());
        }
        if target.checksums.is_empty() && clone_extents(file, input, out)? {
            return Ok(());
        }
    }
    while let Some(stride) = input.next_stride()? {
        out.skip(stride.offset - out.position());
        append_sparse(out, &stride.data)?;
    }
    out.skip(input.len() - out.position());
    Ok(())
}

/// Appends data, with holes for runs of zeros.
pub(crate) fn append_sparse(out: &mut OutFile, data: &[u8]) -> Result<()> {
    let mut rest = data;
    while !rest.is_empty() {
        let run = |zero: bool| {
            let blocks = rest.chunks(HOLE_BYTES).take_while(|b| is_zero(b) == zero);
            blocks.map(<[u8]>::len).sum::<usize>()
        };
        let zeros = run(true);
        out.skip(zeros as u64);
        rest = &rest[zeros..];
        let blocks = rest.chunks(HOLE_BYTES).take_while(|b| !is_zero(b));
        let filled = blocks.map(<[u8]>::len).sum::<usize>();
        out.append(&rest[..filled])?;
        rest = &rest[filled..];
    }
    Ok(())
}

fn same_filesystem(file: &File, out: &OutFile) -> bool {
    let dir = std::fs::metadata(directory_of(out.destination()));
    match (file.metadata(), dir) {
        (Ok(file), Ok(dir)) => file.dev() == dir.dev(),
        _ => false,
    }
}

/// Copies the data extents within the kernel. Returns `false` if this pair of files does not
/// support that; then nothing has been written.
fn clone_extents(from: &File, input: &mut DiskInput<'_>, out: &mut OutFile) -> Result<bool> {
    let read_error = |offset, source| OutputError::ReadDisk { offset, bytes: 0, source };
    let mut next = 0;
    while let Some(extent) = input.source.next_data(next).map_err(|e| read_error(next, e))? {
        let mut at = extent.start;
        while at < extent.end {
            input.check_cancelled()?;
            let (mut source_at, mut out_at) = (offset(at)?, offset(at)?);
            let want = usize::try_from((extent.end - at).min(COPY_BYTES)).unwrap_or(usize::MAX);
            let copied =
                copy_file_range(from, Some(&mut source_at), out.file(), Some(&mut out_at), want);
            match copied {
                Ok(0) => return Err(read_error(at, std::io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    input.decline_strides();
                    at += count as u64;
                }
                Err(
                    nix::errno::Errno::EXDEV
                    | nix::errno::Errno::EOPNOTSUPP
                    | nix::errno::Errno::ENOSYS
                    | nix::errno::Errno::EINVAL,
                ) if next == 0 && at == extent.start => return Ok(false),
                Err(e) => return Err(OutputError::io("write", out.destination(), e.into())),
            }
            input.advanced(at);
        }
        next = extent.end;
    }
    out.skip(input.source.len());
    Ok(true)
}

fn offset(at: u64) -> Result<i64> {
    let too_large = |_| OutputError::TooLarge { format: "raw", bytes: at, max: i64::MAX as u64 };
    i64::try_from(at).map_err(too_large)
}
