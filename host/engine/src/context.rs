//! Changes the mounts of the guest to those of a stage's context with as few changes as possible,
//! and records the mounts that scripts leave behind.

use plan::Context;
use session::{MountEntry, MountSpec};

use crate::{
    EngineError, State,
    events::SharedObserver,
    guest::{Guest, HELPER, Mounted, SCRATCH, TOOLS},
    layout,
    state::CarriedMount,
    steps::processes,
};

/// Returns the mounts that a context requires, in mount order.
fn wanted(context: &Context, guest: &Guest, state: &State) -> Result<Vec<MountSpec>, EngineError> {
    let mut mounts = Vec::new();
    if let Some(at) = &context.layout_at {
        mounts.extend(layout::mounts(at, guest, state)?);
    }
    if let Some(root) = context.image_root.as_ref().filter(|_| context.image_system_mounts) {
        let root = Guest::tools_path(root);
        let plain = |source: &str, place: &str, fstype: &str, options: &[&str]| MountSpec {
            source: source.into(),
            target: format!("{root}{place}"),
            fstype: fstype.into(),
            options: options.iter().map(ToString::to_string).collect(),
        };
        mounts.push(plain("proc", "/proc", "proc", &[]));
        mounts.push(plain("/dev", "/dev", "", &["bind"]));
        mounts.push(plain("/dev/pts", "/dev/pts", "", &["bind"]));
        mounts.push(plain("sysfs", "/sys", "sysfs", &["ro"]));
    }
    for bind in &context.binds {
        let mut options = vec!["bind".to_owned()];
        if bind.read_only {
            options.push("ro".into());
        }
        mounts.push(MountSpec {
            source: Guest::tools_path(&bind.from),
            target: Guest::tools_path(&bind.to),
            fstype: String::new(),
            options,
        });
    }
    Ok(mounts)
}

/// Makes the guest's mounts those of a context: unmounts those that differ, and adds the missing
/// ones.
pub(crate) async fn enter(
    guest: &mut Guest,
    context: &Context,
    previous: Option<&Context>,
    state: &mut State,
    observer: &SharedObserver,
) -> Result<(), EngineError> {
    let prepare = |action: String| move |source| EngineError::Prepare { action, source };
    let wanted = wanted(context, guest, state)?;
    let same = wanted.iter().zip(&guest.mounted).take_while(|(a, b)| **a == b.spec).count();
    // Processes that a script has left running in the image would keep these mounts busy.
    let left = previous.and_then(|context| context.image_root.as_ref());
    if let Some(root) = left.filter(|_| same < guest.mounted.len()) {
        let ended = processes::kill_left_over(guest, observer, root).await;
        ended.map_err(prepare("end left-over processes".to_owned()))?;
    }
    if let Some(below) = below_left_root(context, previous) {
        unmount_carried(guest, state, |target| target.starts_with(&below)).await?;
    }
    for mounted in guest.mounted.drain(same..).rev().collect::<Vec<_>>() {
        let target = &mounted.spec.target;
        let below = format!("{target}/");
        unmount_carried(guest, state, |target| target.starts_with(&below)).await?;
        guest.session.unmount(target).await.map_err(prepare(format!("unmount {target}")))?;
        if mounted.made_target {
            let removed = guest.session.remove("/", target).await;
            removed.map_err(prepare(format!("remove {target}")))?;
            state.made_targets.remove(target);
        }
    }
    for mount in &wanted[same..] {
        // The image needs the mount points of its own filesystems when it boots.
        let made_target = !layout::is_of_layout(mount)
            && (state.made_targets.contains(&mount.target)
                || matches!(guest.session.stat("/", &mount.target).await, Ok(None)));
        if made_target {
            state.made_targets.insert(mount.target.clone());
        }
        guest
            .session
            .mount(mount.clone())
            .await
            .map_err(prepare(format!("mount {} on {}", mount.source, mount.target)))?;
        guest.mounted.push(Mounted { spec: mount.clone(), made_target });
    }
    Ok(())
}

/// Returns the prefix of the mount points that scripts made below the image root of the previous
/// stage, if the next context has another root. These mounts are removed with that root.
fn below_left_root(context: &Context, previous: Option<&Context>) -> Option<String> {
    let root = previous?.image_root.as_ref()?;
    (context.image_root.as_ref() != Some(root)).then(|| format!("{}/", Guest::tools_path(root)))
}

/// Removes from the state those carried mounts that entering the context would unmount, so that a
/// fresh guest does not mount them again.
pub(crate) fn forget_left(context: &Context, previous: Option<&Context>, state: &mut State) {
    if let Some(below) = below_left_root(context, previous) {
        state.carried.retain(|mount| !mount.target.starts_with(&below));
    }
}

async fn unmount_carried(
    guest: &Guest,
    state: &mut State,
    gone: impl Fn(&str) -> bool,
) -> Result<(), EngineError> {
    let (drop, keep): (Vec<_>, Vec<_>) =
        state.carried.drain(..).partition(|mount| gone(&mount.target));
    state.carried = keep;
    for mount in drop.into_iter().rev() {
        guest.session.unmount_lazily(&mount.target).await.map_err(|source| {
            EngineError::Prepare { action: format!("unmount {}", mount.target), source }
        })?;
    }
    Ok(())
}

/// Restores, in a fresh guest, the mounts that scripts had left.
pub(crate) async fn restore_carried(guest: &Guest, state: &State) -> Result<(), EngineError> {
    for carried in &state.carried {
        let mount = MountSpec {
            source: carried.source.clone(),
            target: carried.target.clone(),
            fstype: carried.fstype.clone(),
            options: carried.options.clone(),
        };
        guest.session.mount(mount).await.map_err(|source| EngineError::Prepare {
            action: format!("mount {} again", carried.target),
            source,
        })?;
    }
    Ok(())
}

/// Records in the state the mounts that scripts have left below the tools root.
pub(crate) async fn note_carried(guest: &Guest, state: &mut State) -> Result<(), EngineError> {
    let mounts = guest
        .session
        .mounts()
        .await
        .map_err(|source| EngineError::Prepare { action: "list mounts".into(), source })?;
    let declared: Vec<&str> =
        guest.mounted.iter().map(|mounted| mounted.spec.target.as_str()).collect();
    state.carried = carried(&mounts, &declared, TOOLS);
    Ok(())
}

/// Returns the mounts of a mount table that belong neither to the base nor to the context.
fn carried(mounts: &[MountEntry], declared: &[&str], tools: &str) -> Vec<CarriedMount> {
    let base: Vec<String> = ["", "/dev", "/proc", "/sys", "/run", "/build"]
        .iter()
        .map(|place| format!("{tools}{place}"))
        .collect();
    let system: Vec<String> =
        ["/dev", "/proc", "/sys", "/run"].iter().map(|place| format!("{tools}{place}/")).collect();
    let prefix = format!("{tools}/");
    mounts
        .iter()
        .filter(|entry| entry.target.starts_with(&prefix))
        .filter(|entry| !base.contains(&entry.target))
        .filter(|entry| !system.iter().any(|place| entry.target.starts_with(place.as_str())))
        .filter(|entry| !declared.contains(&entry.target.as_str()))
        .filter_map(|entry| describe(entry, mounts))
        .collect()
}

/// Describes how to make a mount again: as a bind mount if its filesystem is the one of the scratch
/// disk, the helper drive or the tools root. `None` if the mount belongs to the base, or cannot be
/// made again.
fn describe(entry: &MountEntry, mounts: &[MountEntry]) -> Option<CarriedMount> {
    let options = |entry: &MountEntry| {
        entry.options.split(',').filter(|word| *word == "ro").map(ToOwned::to_owned).collect()
    };
    let home = mounts.iter().find(|other| {
        other.device == entry.device
            && other.root == "/"
            && (other.target == SCRATCH || other.target == HELPER || other.target == TOOLS)
    });
    if let Some(home) = home {
        // The bind mount of the helper directory is part of the base.
        if entry.root == "/helper" && home.target == SCRATCH
            || entry.root == "/" && home.target == HELPER
        {
            return None;
        }
        let mut words: Vec<String> = options(entry);
        words.insert(0, "bind".into());
        return Some(CarriedMount {
            target: entry.target.clone(),
            source: format!("{}{}", home.target, entry.root.trim_end_matches('/')),
            fstype: String::new(),
            options: words,
        });
    }
    // Virtual filesystems can be mounted again. How to make any other mount, such as a loop mount
    // of a file, is not known, so it is not carried.
    matches!(entry.fstype.as_str(), "tmpfs" | "proc" | "sysfs" | "devtmpfs" | "devpts").then(|| {
        CarriedMount {
            target: entry.target.clone(),
            source: entry.source.clone(),
            fstype: entry.fstype.clone(),
            options: options(entry),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(device: &str, root: &str, target: &str, fstype: &str) -> MountEntry {
        MountEntry {
            source: "x".into(),
            root: root.into(),
            target: target.into(),
            fstype: fstype.into(),
            options: "rw,noatime".into(),
            device: device.into(),
        }
    }

    #[test]
    fn a_bound_package_cache_is_carried_as_a_bind_of_its_disk() {
        let archives = "/vbuild/tools/build/mnt/var/cache/apt/archives";
        let mounts = [
            entry("254:1", "/", SCRATCH, "ext4"),
            entry("254:3", "/", HELPER, "ext4"),
            entry("0:9", "/", TOOLS, "overlay"),
            entry("254:1", "/build", "/vbuild/tools/build", "ext4"),
            entry("254:3", "/", "/vbuild/tools/helper", "ext4"),
            entry("254:3", "/home/.cache/image-create/apt", archives, "ext4"),
            entry("0:5", "/", "/vbuild/tools/build/mnt/dev", "devtmpfs"),
        ];
        let declared = ["/vbuild/tools/build/mnt/dev"];
        assert_eq!(
            carried(&mounts, &declared, TOOLS),
            [CarriedMount {
                target: archives.into(),
                source: "/vbuild/helper/home/.cache/image-create/apt".into(),
                fstype: String::new(),
                options: vec!["bind".into()],
            }]
        );
    }
}
