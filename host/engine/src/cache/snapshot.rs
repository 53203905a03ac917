//! Takes a snapshot of the disks of a running guest: the guest flushes and freezes its filesystems,
//! every disk gets a new layer, and the filesystems are thawed.

use std::time::{Duration, Instant};

use plan::{DiskName, Plan};
use session::{MountEntry, MountSpec, Session, SessionError};

use crate::{
    EngineError,
    disks::{self, Disks},
    guest::{Guest, HELPER},
};

/// Puts a new layer on every disk for which `wanted` returns true. The guest must not be writing.
///
/// # Errors
/// Fails if the machine refuses. Some disks may then have a new layer, which does not harm the
/// guest.
pub(crate) async fn push(
    plan: &Plan,
    session: &Session,
    files: &mut Disks,
    wanted: impl Fn(&Disks, &DiskName) -> bool,
) -> Result<(), EngineError> {
    for (index, disk) in plan.disks.iter().enumerate() {
        if !files.has(&disk.name) || !wanted(files, &disk.name) {
            continue;
        }
        let layer = files.next_layer(&disk.name);
        let pushed = session.machine().push_layer(&disks::serial(index)?, &layer).await;
        pushed.map_err(|source| EngineError::Host {
            action: "put on its disk the layer".into(),
            path: layer.clone(),
            source: std::io::Error::other(source),
        })?;
        files.pushed(&disk.name, layer);
    }
    Ok(())
}

/// The reasons why a snapshot was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The filesystems could not be frozen; the disks have no new layers.
    #[error("the guest could not be brought to rest")]
    Quiesce(#[source] SessionError),
    /// A layer could not be added; the disks may now be inconsistent with each other.
    #[error("a disk could not be given a layer")]
    Layer(#[source] EngineError),
    /// The filesystems could not be thawed; the guest cannot be used any more.
    #[error("the guest could not go on")]
    Thaw(#[source] SessionError),
}

/// Takes a snapshot: afterwards only the topmost file of each disk is written to. Returns how long
/// the guest was paused.
pub(crate) async fn take(
    plan: &Plan,
    guest: &Guest,
    files: &mut Disks,
) -> Result<Duration, SnapshotError> {
    let session = &guest.session;
    session.sync().await.map_err(SnapshotError::Quiesce)?;
    let mounts = session.mounts().await.map_err(SnapshotError::Quiesce)?;
    let (paths, plain) = writable(&mounts);
    let started = Instant::now();
    // Filesystems that cannot be frozen have a mark on the disk while they are mounted writable.
    let (mut resting, mut quiet) = (Vec::new(), Ok(()));
    for mount in &plain {
        quiet = remount(guest, mount, "ro").await;
        if quiet.is_err() {
            break;
        }
        resting.push(mount);
    }
    let frozen = match quiet {
        Ok(()) => session.freeze(&paths).await,
        Err(error) => Err(error),
    };
    let pushed = match &frozen {
        Ok(()) => push(plan, session, files, |_, _| true).await,
        Err(_) => Ok(()),
    };
    if frozen.is_ok() {
        session.thaw(&paths).await.map_err(SnapshotError::Thaw)?;
    }
    for mount in resting {
        remount(guest, mount, "rw").await.map_err(SnapshotError::Thaw)?;
    }
    frozen.map_err(SnapshotError::Quiesce)?;
    pushed.map_err(SnapshotError::Layer)?;
    Ok(started.elapsed())
}

/// Returns the mount points of the writable filesystems on the build's disks: those that can be
/// frozen, with the last mounted first, and those that cannot.
fn writable(mounts: &[MountEntry]) -> (Vec<String>, Vec<String>) {
    let helper = mounts.iter().find(|mount| mount.target == HELPER).map(|mount| &mount.device);
    let (mut freeze, mut plain) = (Vec::new(), Vec::new());
    let mut seen: Vec<&str> = helper.into_iter().map(String::as_str).collect();
    for mount in mounts {
        let on_disk = mount.source.starts_with("/dev/") && mount.fstype != "devtmpfs";
        let read_only = mount.options.split(',').any(|word| word == "ro");
        if !on_disk || read_only || seen.contains(&mount.device.as_str()) {
            continue;
        }
        seen.push(&mount.device);
        match mount.fstype.as_str() {
            "vfat" | "msdos" | "exfat" => plain.push(mount.target.clone()),
            _ => freeze.push(mount.target.clone()),
        }
    }
    freeze.reverse();
    (freeze, plain)
}

async fn remount(guest: &Guest, target: &str, mode: &str) -> Result<(), SessionError> {
    let mount = MountSpec {
        source: String::new(),
        target: target.to_owned(),
        fstype: String::new(),
        options: vec!["remount".into(), mode.to_owned(), "noatime".into()],
    };
    guest.session.mount(mount).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(source: &str, target: &str, fstype: &str, device: &str, options: &str) -> MountEntry {
        MountEntry {
            source: source.into(),
            root: "/".into(),
            target: target.into(),
            fstype: fstype.into(),
            options: options.into(),
            device: device.into(),
        }
    }

    #[test]
    fn every_writable_filesystem_of_the_build_is_brought_to_rest_once() {
        let mounts = [
            mount("/dev/vda", "/vbuild/lower", "ext4", "254:0", "ro,noatime"),
            mount("/dev/vdb", "/vbuild/scratch", "ext4", "254:16", "rw"),
            mount("/dev/vdd1", "/vbuild/helper", "ext4", "254:49", "rw"),
            mount("vbuild-tools", "/vbuild/tools", "overlay", "0:30", "rw"),
            mount("/dev/vdb", "/vbuild/tools/build", "ext4", "254:16", "rw"),
            mount("/dev/vdd1", "/vbuild/tools/helper", "ext4", "254:49", "rw"),
            mount("/dev/vdc2", "/vbuild/tools/mnt", "ext4", "254:34", "rw"),
            mount("/dev/vdc1", "/vbuild/tools/mnt/boot/efi", "vfat", "254:33", "rw"),
        ];
        let (freeze, plain) = writable(&mounts);
        assert_eq!(freeze, ["/vbuild/tools/mnt", "/vbuild/scratch"]);
        assert_eq!(plain, ["/vbuild/tools/mnt/boot/efi"]);
    }
}
