//! Block devices: lists them, writes to them, and rereads their partition tables.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use wire::{BlockDevice, Failure};

use crate::failure::{Doing, failure};
use crate::stream::Stream;
use crate::sys;

/// The directory in which the kernel lists disks and partitions.
const SYS_BLOCK: &str = "/sys/class/block";

/// The unit of sizes in sysfs in bytes, which does not depend on the device's block size.
const SECTOR_BYTES: u64 = 512;

/// The time limit of a reread: for a disk to be no longer busy (a probe may just have opened it),
/// and for its device nodes to appear.
const REREAD_WAIT: Duration = Duration::from_secs(5);

/// The interval between two checks: short, as devtmpfs creates nodes within milliseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

fn attribute(device: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(device.join(name)).ok()?.trim().to_owned())
}

fn number<T: std::str::FromStr>(device: &Path, name: &str) -> Option<T> {
    attribute(device, name)?.parse().ok()
}

/// Returns all disks and partitions whose size is not zero, sorted by the length of their name,
/// then by name.
pub(crate) fn list() -> Result<Vec<BlockDevice>, Failure> {
    let action = || format!("list `{SYS_BLOCK}`");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(SYS_BLOCK).doing(action)? {
        if let Ok(name) = entry.doing(action)?.file_name().into_string() {
            names.insert((name.len(), name));
        }
    }
    Ok(names.iter().filter_map(|(_, name)| describe(&Path::new(SYS_BLOCK).join(name))).collect())
}

fn describe(device: &Path) -> Option<BlockDevice> {
    let device = fs::canonicalize(device).ok()?;
    let partition = number(&device, "partition");
    let disk = if partition.is_some() { device.parent()? } else { &device };
    let bytes = number::<u64>(&device, "size")?.checked_mul(SECTOR_BYTES)?;
    if bytes == 0 {
        return None;
    }
    let name = device.file_name()?.to_str()?;
    Some(BlockDevice {
        // sysfs writes a slash in a name as `!`.
        path: format!("/dev/{}", name.replace('!', "/")),
        serial: attribute(disk, "serial").unwrap_or_default(),
        partition,
        bytes,
    })
}

/// Returns the device node of the disk with a serial, if it exists. This is called in a loop at
/// boot, so it reads as little as possible.
pub(crate) fn find_by_serial(serial: &str) -> Option<String> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let found = attribute(&entry.path(), "serial")?;
        (found == serial).then(|| format!("/dev/{name}"))
    })
}

fn open(device: &str, options: &OpenOptions) -> Result<File, Failure> {
    let action = || format!("open the disk `{device}`");
    let mut options = options.clone();
    let file = options.custom_flags(libc::O_CLOEXEC).open(device).doing(action)?;
    if !file.metadata().doing(action)?.file_type().is_block_device() {
        return Err(failure(action(), "it is no block device"));
    }
    Ok(file)
}

/// Writes the bytes that the host sends to a disk at an offset, and flushes them to the device.
pub(crate) fn write(stream: &Stream, device: &str, offset: u64) -> Result<(), Failure> {
    let action = || format!("write to the disk `{device}`");
    let disk = open(device, OpenOptions::new().write(true))?;
    let mut offset = offset;
    while let Some(bytes) = stream.receive().doing(action)? {
        disk.write_all_at(&bytes, offset).doing(action)?;
        offset = offset
            .checked_add(bytes.len() as u64)
            .ok_or_else(|| failure(action(), "the offset overflows"))?;
    }
    disk.sync_all().doing(action)
}

/// Makes the kernel read the partition table again, and waits for the device nodes. Returns the
/// disk and its partitions.
pub(crate) fn reread(device: &str) -> Result<Vec<BlockDevice>, Failure> {
    let action = || format!("reread the partition table of `{device}`");
    let disk = open(device, OpenOptions::new().read(true))?;
    let end = Instant::now() + REREAD_WAIT;
    loop {
        match sys::reread_partitions(&disk) {
            Err(Errno::EBUSY) if Instant::now() < end => std::thread::sleep(POLL_INTERVAL),
            other => break other.doing(action)?,
        }
    }
    // The path may be that of a link, such as /dev/disk/by-id/….
    let node = fs::canonicalize(device).doing(action)?;
    let name = node.strip_prefix("/dev").unwrap_or(&node).to_string_lossy().replace('/', "!");
    loop {
        let devices = of_disk(&name)?;
        match devices.iter().find(|device| !Path::new(&device.path).exists()) {
            None => return Ok(devices),
            Some(device) if Instant::now() >= end => {
                return Err(failure(action(), format!("no node `{}` appears", device.path)));
            }
            Some(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Returns a disk and its partitions.
fn of_disk(name: &str) -> Result<Vec<BlockDevice>, Failure> {
    let disk = Path::new("/sys/block").join(name);
    let mut devices: Vec<_> = describe(&disk).into_iter().collect();
    for entry in fs::read_dir(&disk).doing(|| format!("list `{}`", disk.display()))?.flatten() {
        if entry.path().join("partition").exists() {
            devices.extend(describe(&entry.path()));
        }
    }
    devices.sort_by_key(|device| device.partition);
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_no_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let failed = reread(file.path().to_str().unwrap()).unwrap_err();
        assert_eq!(failed.reason, "it is no block device");
    }

    #[test]
    fn the_list_names_nodes() {
        // Containers may have no block device at all; those listed must be sane.
        for device in list().unwrap_or_default() {
            assert!(device.path.starts_with("/dev/") && device.bytes > 0, "{device:?}");
        }
    }

    #[test]
    fn a_serial_nobody_has_is_not_found() {
        assert_eq!(find_by_serial("no disk has this serial"), None);
    }
}
