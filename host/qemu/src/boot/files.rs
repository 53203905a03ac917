//! Opens the files of a boot: image and firmware read-only, and unnamed files for the guest's
//! changes.

use std::{
    fs::File,
    io::{self, Seek},
    path::Path,
};

use machine::{Drive, DriveSerial, MachineError};
use microvm::{OpenDrive, file_bytes_max, open_drive};

use super::{BootSpec, Firmware};
use crate::handed::{Handed, SetId};

/// The files of a boot, by QEMU's names.
#[derive(Debug)]
pub(super) struct Files {
    /// The image and its backing files, nearest first.
    pub(super) image: Vec<SetId>,
    /// The temporary layer over the image for the guest's writes.
    pub(super) changes: SetId,
    /// Code and variables of the firmware, if it has any.
    pub(super) flash: Option<[SetId; 2]>,
    /// Maximum size of any file that QEMU writes.
    pub(super) file_bytes: u64,
}

/// Opens the files and adds them to `handed`: of the image, only the files in the specification,
/// whatever its header names.
pub(super) fn open_files(spec: &BootSpec, handed: &mut Handed) -> Result<Files, MachineError> {
    let OpenDrive { files, disk_bytes } = open_drive(&drive(spec)?)?;
    let mut give = |path: &Path, file: File, writable| {
        handed.give_image(path, file, writable).map_err(|error| unusable(path, error))
    };
    let paths = std::iter::once(&spec.image).chain(spec.below.iter().map(|layer| &layer.path));
    let image =
        paths.zip(files).map(|(path, file)| give(path, file, false)).collect::<Result<_, _>>()?;
    let layer = Path::new("the changes of the guest");
    let changes = temporary().and_then(|file| {
        qcow2::create_layer(&file, disk_bytes, None)?;
        Ok(file)
    });
    let changes = give(layer, changes.map_err(|error| unusable(layer, error))?, true)?;
    let flash = match &spec.firmware {
        Firmware::Bios => None,
        Firmware::Uefi(uefi) => {
            let open = |path: &Path| File::open(path).map_err(|error| unusable(path, error));
            let code = give(&uefi.code, open(&uefi.code)?, false)?;
            let variables = copy(&open(&uefi.variables)?);
            let variables = variables.map_err(|error| unusable(&uefi.variables, error))?;
            Some([code, give(&uefi.variables, variables, true)?])
        }
    };
    let memory_bytes = u64::from(spec.memory_mib) << 20;
    let file_bytes = file_bytes_max(disk_bytes).max(memory_bytes);
    Ok(Files { image, changes, flash, file_bytes })
}

fn drive(spec: &BootSpec) -> Result<Drive, MachineError> {
    Ok(Drive {
        serial: DriveSerial::new("disk")?,
        path: spec.image.clone(),
        format: spec.format,
        below: spec.below.clone(),
        read_only: true,
        durable: false,
        block_size: spec.block_size,
    })
}

/// Creates an unnamed file in QEMU's own directory for temporary files: `/tmp` is often a tmpfs,
/// and a guest may write gigabytes.
fn temporary() -> io::Result<File> {
    match std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty()) {
        Some(folder) => tempfile::tempfile_in(folder),
        None => tempfile::tempfile_in("/var/tmp"),
    }
}

/// Copies a file to an unnamed one: firmware variables have half a mebibyte.
fn copy(mut from: &File) -> io::Result<File> {
    let mut to = temporary()?;
    io::copy(&mut from, &mut to)?;
    to.rewind()?;
    Ok(to)
}

fn unusable(path: &Path, reason: impl ToString) -> MachineError {
    MachineError::Unavailable {
        what: format!("`{}`", path.display()),
        reason: reason.to_string(),
        hint: None,
    }
}
