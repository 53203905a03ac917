//! Parks disks: unbinds their driver while the memory of a machine is saved, so that a machine
//! restored from that memory may have other disks in the same slots.

use std::fs;
use std::path::{Path, PathBuf};

use wire::Failure;

use crate::block;
use crate::failure::{Doing, failure};

/// The directory of the virtio disk driver in sysfs. Writing a device's name to `unbind` or `bind`
/// in it unbinds or binds the driver (Documentation/ABI/testing/sysfs-bus of Linux).
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";

/// A disk without a driver: the name of its virtio device, such as `virtio3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parked(String);

/// Unbinds the driver of the disks with these serials.
///
/// # Errors
/// Fails if a disk does not exist, or if its driver cannot be unbound. The disks before it stay
/// parked.
pub(crate) fn park(serials: &[String]) -> Result<Vec<Parked>, Failure> {
    serials.iter().map(|serial| park_one(serial)).collect()
}

fn park_one(serial: &str) -> Result<Parked, Failure> {
    let action = || format!("park the disk `{serial}`");
    let disk = block::find_by_serial(serial).ok_or_else(|| failure(action(), "no such disk"))?;
    let name = disk.strip_prefix("/dev/").unwrap_or(&disk);
    let device: PathBuf = Path::new("/sys/block").join(name).join("device");
    let device = fs::canonicalize(device).doing(action)?;
    let device = device.file_name().and_then(|name| name.to_str());
    let device = device.ok_or_else(|| failure(action(), "its device has no name"))?;
    fs::write(Path::new(DRIVER).join("unbind"), device).doing(action)?;
    Ok(Parked(device.to_owned()))
}

/// Binds the driver to disks again, in the given order.
///
/// # Errors
/// Fails if the driver refuses a disk.
pub(crate) fn unpark(disks: impl Iterator<Item = Parked>) -> Result<(), Failure> {
    for Parked(device) in disks {
        fs::write(Path::new(DRIVER).join("bind"), &device)
            .doing(|| format!("give the disk `{device}` its driver"))?;
    }
    Ok(())
}
