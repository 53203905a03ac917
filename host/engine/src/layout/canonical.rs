//! Makes filesystems canonical: their bytes then depend only on the files in them.
//!
//! The kernel places blocks depending on the moment when it writes them, and stores times and
//! random numbers. So with SOURCE_DATE_EPOCH, ext filesystems are created again at the end from
//! their own files by mke2fs, which places everything in a fixed order. FAT is written in a fixed
//! order anyway, and only its times are set. Logical volumes, containers, XFS and btrfs contain
//! random numbers and times of their own, and stay as they are.

use plan::{Filesystem, GuestPath, NodeKind};

use super::{
    mkfs,
    nodes::{device, hash_name},
};
use crate::{
    EngineError,
    guest::{Guest, SCRATCH},
    step_context::StepContext,
};

const REMAKE_EXT: &str = include_str!("../../scripts/remake-ext.sh");
const FAT_TIMES: &str = include_str!("../../scripts/fat-times.py");

/// Sets the modification times of files below a directory that are later than the epoch to the
/// epoch.
pub(crate) async fn clamp_times(
    guest: &Guest,
    root: &GuestPath,
    epoch: u64,
) -> Result<(), EngineError> {
    let script = "find \"$1\" -newermt \"@$2\" -print0 | xargs -0r touch -h -m -d \"@$2\"";
    let (root, epoch) = (Guest::tools_path(root), epoch.to_string());
    guest.run_tool(&["sh", "-c", script, "sh", &root, &epoch]).await.map(drop)
}

/// Makes the filesystems of the layout canonical, if their type allows it.
pub(crate) async fn make(epoch: u64, cx: &StepContext<'_>) -> Result<(), EngineError> {
    let epoch = epoch.to_string();
    for made in &cx.state.nodes {
        let NodeKind::Filesystem(filesystem) = &made.node.kind else { continue };
        let device = device(&filesystem.base, cx.guest, cx.state)?;
        match filesystem.fstype.as_str() {
            "ext2" | "ext3" | "ext4" => {
                let uuid = made.uuid.clone().unwrap_or_default();
                let name = &made.node.name;
                remake((name, filesystem), &device, &uuid, &epoch, cx).await?;
            }
            "vfat" | "fat" | "msdos" => {
                let argv = ["python3", "-c", FAT_TIMES, &device, &epoch];
                cx.guest.run_tool(&argv).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

async fn remake(
    (name, filesystem): (&str, &Filesystem),
    device: &str,
    uuid: &str,
    epoch: &str,
    cx: &StepContext<'_>,
) -> Result<(), EngineError> {
    let work = format!("{SCRATCH}/canonical");
    let (mkfs, _) = mkfs::command(filesystem, uuid, cx.config.identifier(&hash_name(name)));
    let mut argv = vec!["sh", "-c", REMAKE_EXT, "remake-ext", epoch, device, &work];
    argv.extend(mkfs.iter().map(String::as_str));
    cx.guest.run_tool(&argv).await.map(drop)
}
