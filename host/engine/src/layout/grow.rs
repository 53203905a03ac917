//! Makes the root filesystem of a disk as large as the disk allows. Grows, in this order, the
//! partition, the physical volume, the logical volume and the filesystem.

use plan::{Filesystem, NodeKind};
use serde::Deserialize;
use session::ExitStatus;

use super::nodes::device;
use crate::{
    EngineError, State,
    guest::{self, Guest, INSPECT, tool_failed},
    step_context::StepContext,
};

/// The exit status of e2fsck if errors were corrected.
const E2FSCK_CORRECTED: i32 = 1;
/// The types of extended partitions of an MBR, which contain the logical ones.
const EXTENDED_TYPES: [&str; 3] = ["5", "f", "85"];
/// The number of the first logical partition.
const LOGICAL_FIRST: u32 = 5;

/// The used parts of sfdisk's report about a partition table.
#[derive(Debug, Deserialize)]
struct Report {
    partitiontable: Table,
}

#[derive(Debug, Deserialize)]
struct Table {
    label: String,
    #[serde(default)]
    partitions: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    node: String,
    #[serde(rename = "type")]
    kind: String,
}

/// Runs the step `GrowRoot`: grows the root filesystem of a disk.
pub(crate) async fn grow_root(disk: &str, cx: &StepContext<'_>) -> Result<(), EngineError> {
    let (guest, state) = (cx.guest, &*cx.state);
    let filesystem = root(state).ok_or_else(|| {
        EngineError::Recipe(format!("no root filesystem has been found on `{disk}`"))
    })?;
    let group = group_of(&filesystem.base, state);
    let partition = match &group {
        None => number_of(&filesystem.base, state),
        Some(group) => physical(disk, group, cx).await?,
    };
    if let Some(group) = &group {
        // The kernel cannot change the size of a partition that is in use.
        guest.run_tool(&["vgchange", "-an", group]).await?;
    }
    if let Some(number) = partition {
        grow_partition(disk, number, cx).await?;
    }
    if let Some(group) = &group {
        grow_volume(disk, group, &filesystem.base, partition, cx).await?;
    }
    let device = device(&filesystem.base, guest, state)?;
    grow_filesystem(guest, &device, &filesystem.fstype).await
}

/// Returns the root filesystem of the layout.
fn root(state: &State) -> Option<&Filesystem> {
    state.nodes.iter().find_map(|made| match &made.node.kind {
        NodeKind::Mount(mount) if mount.mount_point == "/" => state.filesystem(&mount.base),
        _ => None,
    })
}

fn group_of(node: &str, state: &State) -> Option<String> {
    state.nodes.iter().find(|made| made.node.name == node).and_then(|made| match &made.node.kind {
        NodeKind::LogicalVolume(volume) => Some(volume.group.clone()),
        _ => None,
    })
}

fn number_of(node: &str, state: &State) -> Option<u32> {
    let mut partitions = state.nodes.iter().flat_map(|made| &made.partitions);
    partitions.find(|(name, _)| name == node).map(|(_, number)| *number)
}

/// Finds the last partition of the disk that is part of a volume group; `None` if the group is on
/// the bare disk.
async fn physical(
    disk: &str,
    group: &str,
    cx: &StepContext<'_>,
) -> Result<Option<u32>, EngineError> {
    let select = format!("vg_name={group}");
    let argv = ["pvs", "--noheadings", "-o", "pv_name", "--select", &select];
    let said = cx.guest.run_tool(&argv).await?;
    let said = String::from_utf8_lossy(&said);
    let devices: Vec<&str> = said.lines().map(str::trim).collect();
    let mut numbers = Vec::new();
    for (name, number) in cx.state.nodes.iter().flat_map(|made| &made.partitions) {
        if devices.contains(&device(name, cx.guest, cx.state)?.as_str()) {
            numbers.push(*number);
        }
    }
    tracing::debug!(disk, group, ?numbers, "physical volumes");
    Ok(numbers.into_iter().max())
}

/// Moves the end of a partition to the start of the next one, or to the end of the disk. Warns if
/// the partition cannot grow.
async fn grow_partition(disk: &str, number: u32, cx: &StepContext<'_>) -> Result<(), EngineError> {
    let guest = cx.guest;
    let (device, _) = guest
        .device(disk)
        .ok_or_else(|| EngineError::Recipe(format!("the disk `{disk}` is not attached")))?;
    let bytes = async || {
        let found = guest.session.reread_partitions(device).await.map_err(|source| {
            EngineError::Prepare { action: format!("read the partition table of `{disk}`"), source }
        })?;
        let partition = found.iter().find(|found| found.partition == Some(number));
        Ok::<u64, EngineError>(partition.map_or(0, |partition| partition.bytes))
    };
    let before = bytes().await?;
    let table = guest.run_tool(&["sfdisk", "-J", device]).await?;
    let table = parse(&table)?;
    if table.label == "gpt" {
        guest.run_tool(&["sfdisk", "-q", "--relocate", "gpt-bak-std", device]).await?;
    }
    let mut numbers = vec![number];
    if table.label == "dos" && number >= LOGICAL_FIRST {
        numbers.splice(0..0, extended(&table, device));
    }
    for number in numbers {
        let number = number.to_string();
        let argv =
            ["sfdisk", "-q", "--no-reread", "--no-tell-kernel", "--force", "-N", &number, device];
        guest.run_tool_with(&argv, b", +\n").await?;
    }
    if bytes().await? <= before {
        cx.warn(format!("partition {number} of {disk} cannot grow: nothing is free behind it"));
    }
    Ok(())
}

fn parse(report: &[u8]) -> Result<Table, EngineError> {
    serde_json::from_slice::<Report>(report)
        .map(|report| report.partitiontable)
        .map_err(|error| EngineError::Recipe(format!("sfdisk's report cannot be read: {error}")))
}

/// Parses a report of sfdisk, for the fuzz target.
pub(crate) fn read_report(bytes: &[u8]) {
    if let Ok(table) = parse(bytes) {
        let _ = extended(&table, "/dev/vda");
    }
}

/// Returns the number of the extended partition, if there is one.
fn extended(table: &Table, device: &str) -> Option<u32> {
    let entry =
        table.partitions.iter().find(|entry| EXTENDED_TYPES.contains(&entry.kind.as_str()))?;
    entry.node.strip_prefix(device)?.trim_start_matches('p').parse().ok()
}

async fn grow_volume(
    disk: &str,
    group: &str,
    node: &str,
    partition: Option<u32>,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let (guest, state) = (cx.guest, &*cx.state);
    let physical = match partition {
        Some(number) => {
            let mut partitions = state.nodes.iter().flat_map(|made| &made.partitions);
            let name = partitions.find(|(_, found)| *found == number).map(|(name, _)| name.clone());
            device(&name.unwrap_or_else(|| disk.to_owned()), guest, state)?
        }
        None => device(disk, guest, state)?,
    };
    guest.run_tool(&["pvresize", "-q", &physical]).await?;
    guest.run_tool(&["vgchange", "-ay", group]).await?;
    let argv = ["vgs", "--noheadings", "-o", "vg_free_count", group];
    let free = guest.run_tool(&argv).await?;
    if String::from_utf8_lossy(&free).trim() == "0" {
        return Ok(());
    }
    guest.run_tool(&["lvextend", "-q", "-l", "+100%FREE", node]).await.map(drop)
}

async fn grow_filesystem(guest: &Guest, device: &str, fstype: &str) -> Result<(), EngineError> {
    match fstype {
        "ext2" | "ext3" | "ext4" => {
            check(guest, device).await?;
            guest.run_tool(&["resize2fs", device]).await.map(drop)
        }
        "xfs" => mounted(guest, device, fstype, &["xfs_growfs", INSPECT]).await,
        "btrfs" => {
            mounted(guest, device, fstype, &["btrfs", "filesystem", "resize", "max", INSPECT]).await
        }
        other => Err(EngineError::Recipe(format!("a filesystem of type {other} cannot be grown"))),
    }
}

/// Checks an ext filesystem, because resize2fs refuses one that has not just been checked.
async fn check(guest: &Guest, device: &str) -> Result<(), EngineError> {
    let argv = ["e2fsck", "-f", "-p", device];
    let output = guest.tool_output(&argv, b"").await?;
    match output.status {
        ExitStatus::Code(0 | E2FSCK_CORRECTED) => Ok(()),
        _ => Err(tool_failed(&argv, &output)),
    }
}

/// Mounts a filesystem, and runs a tool that works only on a mounted one.
async fn mounted(
    guest: &Guest,
    device: &str,
    fstype: &str,
    argv: &[&str],
) -> Result<(), EngineError> {
    let prepare =
        |source| EngineError::Prepare { action: format!("mount {device} to grow it"), source };
    guest::mount(&guest.session, device, INSPECT, fstype, &[]).await.map_err(prepare)?;
    let grown = guest.run_tool(argv).await;
    guest.session.unmount(INSPECT).await.map_err(prepare)?;
    grown.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sfdisks_report_tells_label_and_extended_partition() {
        let report = br#"{"partitiontable": {"label": "dos", "id": "0x1", "device": "/dev/vdb",
            "unit": "sectors", "sectorsize": 512, "partitions": [
            {"node": "/dev/vdb1", "start": 2048, "size": 40000, "type": "83", "bootable": true},
            {"node": "/dev/vdb2", "start": 43008, "size": 40000, "type": "f"},
            {"node": "/dev/vdb5", "start": 45056, "size": 30000, "type": "8e"}]}}"#;
        let table = parse(report).unwrap();
        assert_eq!(table.label, "dos");
        assert_eq!(extended(&table, "/dev/vdb"), Some(2));
        assert!(parse(b"{}").is_err());
    }
}
