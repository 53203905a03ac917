//! Finds the devices of layout nodes by serial and partition number, never by device letter.

use plan::NodeKind;

use crate::{EngineError, State, guest::Guest};

/// Returns the block device of a node, a disk or a partition.
pub(crate) fn device(name: &str, guest: &Guest, state: &State) -> Result<String, EngineError> {
    if let Some((device, _)) = guest.device(name) {
        return Ok(device.to_owned());
    }
    for made in &state.nodes {
        if let Some((_, number)) = made.partitions.iter().find(|(part, _)| part == name) {
            let NodeKind::Table(table) = &made.node.kind else { continue };
            let disk = device(&table.disk, guest, state)?;
            return Ok(partition_node(&disk, *number));
        }
        if made.node.name != name {
            continue;
        }
        return match &made.node.kind {
            NodeKind::Table(table) => device(&table.disk, guest, state),
            NodeKind::PhysicalVolume { base, .. } => device(base, guest, state),
            NodeKind::VolumeGroup { .. } => Ok(format!("/dev/{name}")),
            NodeKind::LogicalVolume(volume) => {
                // The name of a detected volume contains its group; see `detect.rs`.
                let own = name.rsplit('/').next().unwrap_or(name);
                Ok(format!("/dev/{}/{own}", volume.group))
            }
            NodeKind::Luks(_) => Ok(format!("/dev/mapper/{name}")),
            NodeKind::Md(_) => Ok(format!("/dev/md/{name}")),
            NodeKind::Filesystem(filesystem) => device(&filesystem.base, guest, state),
            NodeKind::Mount(mount) => device(&mount.base, guest, state),
        };
    }
    Err(EngineError::Recipe(format!("nothing of the name `{name}` has been made on a disk")))
}

/// Returns the kernel's name of a partition, such as `/dev/vda1` or `/dev/nvme0n1p1`.
fn partition_node(disk: &str, number: u32) -> String {
    let digit = disk.chars().last().is_some_and(|last| last.is_ascii_digit());
    format!("{disk}{}{number}", if digit { "p" } else { "" })
}

/// Returns the name of the identifier that seeds the directory hashes of a filesystem.
pub(crate) fn hash_name(filesystem: &str) -> String {
    format!("{filesystem}/directories")
}
