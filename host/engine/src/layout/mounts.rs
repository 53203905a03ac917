//! The filesystems of a layout as mounts: in the guest, and in the image's fstab.

use plan::{GuestPath, NodeKind};
use session::MountSpec;

use super::nodes::device;
use crate::{EngineError, State, guest::Guest};

/// Returns the mounts of the layout's filesystems below a directory. Plain string order puts
/// parents first, as diskimage-builder does.
pub(crate) fn mounts(
    at: &GuestPath,
    guest: &Guest,
    state: &State,
) -> Result<Vec<MountSpec>, EngineError> {
    let mut places = Vec::new();
    for made in &state.nodes {
        let NodeKind::Mount(mount) = &made.node.kind else { continue };
        let Some(filesystem) = state.filesystem(&mount.base) else { continue };
        if filesystem.fstype == "swap" {
            continue;
        }
        let device = device(&mount.base, guest, state)?;
        let options = mount_options(mount);
        places.push((mount.mount_point.clone(), device, filesystem.fstype.clone(), options));
    }
    places.sort();
    let base = Guest::tools_path(at);
    Ok(places
        .into_iter()
        .map(|(place, device, fstype, options)| MountSpec {
            source: device,
            target: format!("{base}{}", place.trim_end_matches('/')),
            fstype,
            options,
        })
        .collect())
}

/// Whether a mount is a filesystem on a disk, and not one of the system or a bind mount.
pub(crate) fn is_of_layout(mount: &MountSpec) -> bool {
    mount.source.starts_with("/dev/") && !mount.fstype.is_empty()
}

/// Returns the mount options in the guest. Of those in fstab, it has only `subvol=`, which
/// determines what is mounted.
fn mount_options(mount: &plan::Mount) -> Vec<String> {
    let fstab = mount.fstab.iter().flat_map(|entry| entry.options.split(','));
    let subvolume = fstab.filter(|word| word.starts_with("subvol=")).map(ToOwned::to_owned);
    std::iter::once("noatime".to_owned()).chain(subvolume).collect()
}

/// Returns the lines of fstab for the layout's mounts, in mount order.
pub(crate) fn fstab(state: &State) -> Result<String, EngineError> {
    let mut lines = Vec::new();
    for made in &state.nodes {
        let NodeKind::Mount(mount) = &made.node.kind else { continue };
        let Some(entry) = &mount.fstab else { continue };
        let filesystem = state.filesystem(&mount.base).ok_or_else(|| {
            EngineError::Recipe(format!("`{}` is mounted but is no filesystem", mount.base))
        })?;
        let uuid =
            state.nodes.iter().find(|n| n.node.name == mount.base).and_then(|n| n.uuid.as_ref());
        let source = match (&filesystem.label, uuid, entry.by_uuid) {
            (Some(label), _, false) => format!("LABEL={label}"),
            (_, Some(uuid), _) => format!("UUID={uuid}"),
            _ => {
                return Err(EngineError::Recipe(format!(
                    "`{}` has neither label nor UUID, so fstab cannot name it",
                    mount.base
                )));
            }
        };
        let swap = filesystem.fstype == "swap";
        let place = if swap { "none" } else { mount.mount_point.as_str() };
        let options = if swap { "sw" } else { entry.options.as_str() };
        let (dump, pass) = if swap { (0, 0) } else { (entry.dump, entry.pass) };
        lines.push((
            place.to_owned(),
            format!("{source} {place} {} {options} {dump} {pass}\n", filesystem.fstype),
        ));
    }
    lines.sort();
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

/// Discards the free blocks of every mounted filesystem of the layout. Filesystems that do not
/// support this (vfat) are skipped.
pub(crate) async fn trim(guest: &Guest) -> Result<(), EngineError> {
    let mounts = guest.mounted.iter().map(|mounted| &mounted.spec);
    for at in mounts.filter(|mount| is_of_layout(mount)).map(|mount| &mount.target) {
        let script = format!("fstrim --verbose {at} || true");
        let output = guest.tool_output(&["sh", "-c", &script], b"").await?;
        tracing::debug!(at, said = %String::from_utf8_lossy(&output.stdout), "trimmed");
    }
    Ok(())
}
