//! Writes FAT images.

use std::io::{self, Cursor, Write};

use fatfs::{Date, DateTime, Dir, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

use super::{LABEL, SeedError, SeedFile, tree::Directory};

/// Minimum image size, as in B9.
const SIZE_MIN_BYTES: u64 = 2 << 20;
/// Maximum image size; real seeds are far smaller.
const SIZE_MAX_BYTES: u64 = 1 << 30;
/// Space per file beside its content: directory entries of its long name, and the unused end of its
/// last cluster.
const FILE_OVERHEAD_BYTES: u64 = 40 << 10;

/// A clock with a fixed time, so that the same files give the same image.
#[derive(Debug, Clone, Copy)]
struct OneMoment;

impl TimeProvider for OneMoment {
    fn get_current_date(&self) -> Date {
        Date { year: 2020, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time { hour: 0, min: 0, sec: 0, millis: 0 },
        }
    }
}

static ONE_MOMENT: OneMoment = OneMoment;

/// Writes the files to a FAT image.
///
/// # Errors
/// Fails if the files do not fit.
pub fn vfat(files: &[SeedFile]) -> Result<Vec<u8>, SeedError> {
    let root = Directory::of(files)?;
    let wanted: u64 = files.iter().map(|file| file.bytes.len() as u64 + FILE_OVERHEAD_BYTES).sum();
    // One sixteenth for the allocation tables.
    let bytes = (wanted + wanted / 16).max(SIZE_MIN_BYTES).next_multiple_of(1 << 20);
    let length = usize::try_from(bytes).ok().filter(|_| bytes <= SIZE_MAX_BYTES);
    let Some(length) = length else { return Err(SeedError::TooLarge("FAT takes 1 GiB")) };
    let mut image = vec![0; length];
    write(&mut image, &root).map_err(SeedError::Fat)?;
    Ok(image)
}

fn write(image: &mut [u8], root: &Directory<'_>) -> io::Result<()> {
    let mut label = [b' '; 11];
    label[..LABEL.len()].copy_from_slice(LABEL.as_bytes());
    let options = FormatVolumeOptions::new().volume_label(label).volume_id(0x0c1d_a7a0);
    fatfs::format_volume(Cursor::new(&mut *image), options)?;
    let options = FsOptions::new().time_provider(&ONE_MOMENT).update_accessed_date(false);
    let filesystem = FileSystem::new(Cursor::new(image), options)?;
    fill(&filesystem.root_dir(), root)?;
    filesystem.unmount()
}

fn fill<T: io::Read + io::Write + io::Seek>(
    place: &Dir<'_, T>,
    directory: &Directory<'_>,
) -> io::Result<()> {
    for (name, file) in &directory.files {
        place.create_file(name)?.write_all(&file.bytes)?;
    }
    for (name, inner) in &directory.directories {
        fill(&place.create_dir(name)?, inner)?;
    }
    Ok(())
}
