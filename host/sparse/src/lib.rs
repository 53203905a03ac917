//! Where a sparse file has data, and where holes: disks are copied, compared and written
//! by their data alone.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek64},
};

/// The first range of data at or behind an offset, up to the next hole; `None` when only
/// a hole follows. Moves the file's own offset.
///
/// # Errors
/// When the filesystem cannot say, or the offset is no offset of a file.
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<Range<u64>>> {
    let Some(start) = seek(file, offset, Whence::SeekData)? else { return Ok(None) };
    // `None` if the file was cut meanwhile.
    Ok(seek(file, start, Whence::SeekHole)?.map(|end| start..end))
}

/// Copies the data of a file to the same offsets of another one, in the kernel where both
/// filesystems can. Holes are left as they are there. Moves both files' offsets.
///
/// # Errors
/// When a file cannot be read or written.
pub fn copy_data(from: &File, to: &File) -> io::Result<()> {
    let mut at = 0;
    while let Some(data) = next_data(from, at)? {
        for mut file in [from, to] {
            file.seek(SeekFrom::Start(data.start))?;
        }
        let (mut from, mut to) = (from.take(data.end - data.start), to);
        io::copy(&mut from, &mut to)?;
        at = data.end;
    }
    Ok(())
}

fn seek(file: &File, offset: u64, whence: Whence) -> io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    match lseek64(file, offset, whence) {
        Ok(found) => Ok(Some(u64::try_from(found).map_err(|_| io::ErrorKind::InvalidData)?)),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn data_is_found_between_holes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"here", 32 << 20).unwrap();
        let data = next_data(&file, 0).unwrap().unwrap();
        assert!(data.contains(&(32 << 20)) && data.start > 0 && data.end < 64 << 20);
        assert_eq!(next_data(&file, data.end).unwrap(), None);
        assert_eq!(next_data(&file, 65 << 20).unwrap(), None);
        assert!(next_data(&file, u64::MAX).is_err());
    }
}
