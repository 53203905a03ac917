//! Opens all files for the VMM process.

use std::{collections::BTreeMap, fs::File, path::Path};

use machine::{DriveSerial, MachineError, MachineSpec, Start};

use super::{KVM_DEVICE, Top};
use crate::{
    control::{Begin, BootDrive, DESCRIPTORS_MAX},
    drives::{self, drive_error},
};

/// The files opened before the process is started.
pub(super) struct Opened {
    pub(super) begin: Begin,
    pub(super) files: Vec<File>,
    pub(super) drives: Vec<BootDrive>,
    pub(super) layers: Vec<File>,
    pub(super) tops: BTreeMap<DriveSerial, Top>,
}

pub(super) fn open_everything(spec: &MachineSpec) -> Result<Opened, MachineError> {
    let open = |path: &Path, what: &str| {
        File::open(path)
            .map_err(MachineError::io(format!("failed to open the {what} `{}`", path.display())))
    };
    let kvm = File::options().read(true).write(true).open(KVM_DEVICE).map_err(|e| {
        MachineError::Unavailable {
            what: format!("`{KVM_DEVICE}`"),
            reason: e.to_string(),
            hint: Some("`vbuild doctor` says what is missing".to_owned()),
        }
    })?;
    let boots = || -> Result<[File; 2], MachineError> {
        Ok([open(&spec.kernel, "kernel")?, open(&spec.initrd, "initramfs")?])
    };
    let (begin, [first, second]) = match &spec.start {
        Start::Boot => (Begin::Boot, boots()?),
        Start::BootToSave => (Begin::BootToSave, boots()?),
        Start::Restore(saved) => {
            let memory = open(&saved.memory(), "saved memory")?;
            (Begin::Restore, [memory, open(&saved.state(), "saved state")?])
        }
    };
    let files = vec![kvm, first, second];
    let mut opened =
        Opened { begin, files, drives: Vec::new(), layers: Vec::new(), tops: BTreeMap::new() };
    for drive in &spec.drives {
        let layers = drives::open(drive).map_err(|error| drive_error(&error))?;
        opened.tops.insert(
            drive.serial.clone(),
            Top {
                path: drive.path.clone(),
                format: drive.format,
                size: layers.size,
                read_only: drive.read_only,
            },
        );
        opened.drives.push(BootDrive {
            serial: drive.serial.as_str().to_owned(),
            read_only: drive.read_only,
            durable: drive.durable,
            block_bytes: drive.block_size.bytes(),
            layers: layers.files.iter().map(|(_, format)| *format).collect(),
        });
        opened.layers.extend(layers.files.into_iter().map(|(file, _)| file));
    }
    let count = opened.layers.len() + crate::control::BOOT_DESCRIPTORS;
    if count > DESCRIPTORS_MAX {
        return Err(MachineError::Vmm {
            action: "open the drives".to_owned(),
            reason: format!("they have {count} files, but at most {DESCRIPTORS_MAX} can be passed"),
        });
    }
    Ok(opened)
}
