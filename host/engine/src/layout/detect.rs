//! Detects the layout of a disk that was not empty at the beginning.
//!
//! ```text
//! disk ─┬─────────────► filesystem?   mounted read-only, looked at: is it a root?
//!       ├─ partitions ► filesystem?   its /etc/fstab names others of the disk
//!       └─ partitions ► LVM ► volumes ► filesystem?
//! ```
//!
//! Everything that is found becomes a node of the layout. From then on contexts mount it, fresh
//! machines open it and trimming includes it, as if the build had created it.

mod complaints;

use std::collections::BTreeMap;

use plan::{
    DevicePlace, Filesystem, FoundDevice, FstabEntry, LogicalVolume, LvSize, Mount, Node, NodeKind,
    PartitionTable, Placing, TableLabel,
};
use session::{BlockDevice, SessionError};

use super::{facts::set_facts, open::close};
use crate::{
    EngineError, State,
    events::Event,
    guest::{self, Guest, INSPECT},
    state::MadeNode,
    step_context::StepContext,
};

/// Maximum size of an fstab. It has a few lines; a larger file is not an fstab.
const FSTAB_MAX_BYTES: u64 = 1 << 20;
/// The types of filesystems that can contain a root.
const ROOT_TYPES: [&str; 6] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"];
/// The subvolumes into which installers put a root.
const ROOT_SUBVOLUMES: [&str; 3] = ["@", "@rootfs", "root"];

/// A device of the disk, with its properties from blkid.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Candidate {
    /// The name of the layout node for this device.
    node: String,
    device: String,
    /// The partition number; `None` if it is not a partition.
    number: Option<u32>,
    tags: BTreeMap<String, String>,
}

impl Candidate {
    fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }

    /// Whether a recipe's name means this device: a partition number, `KIND=VALUE`, or its node.
    fn is_called(&self, name: &str) -> bool {
        if let Ok(number) = name.parse::<u32>() {
            return self.number == Some(number);
        }
        match name.split_once('=') {
            Some((kind, value)) => self.has(kind, value),
            None => self.node == name,
        }
    }

    /// Whether fstab means this device by `KIND=VALUE`.
    fn has(&self, kind: &str, value: &str) -> bool {
        match kind {
            "UUID" => self.tag("UUID").eq_ignore_ascii_case(value),
            "LABEL" => self.tag("LABEL") == value,
            "PARTUUID" => self.tag("PART_ENTRY_UUID").eq_ignore_ascii_case(value),
            "PARTLABEL" => self.tag("PART_ENTRY_NAME") == value,
            _ => false,
        }
    }
}

/// A root filesystem, the subvolume that it is in, and its fstab.
type Root<'a> = (&'a Candidate, Option<String>, String);

/// A volume group with its volumes.
type Group = (String, Vec<String>);

/// Runs the step `FindRoot`: finds the root on a disk, and adds the disk's layout to the state.
pub(crate) async fn find_root(
    disk: &str,
    wanted: Option<&str>,
    cx: &mut StepContext<'_>,
) -> Result<(), EngineError> {
    let guest = cx.guest;
    let prepare = |source| {
        let action = format!("read the partition table of `{disk}`");
        EngineError::Prepare { action, source }
    };
    let device = attached(disk, guest)?;
    let listed = guest.session.reread_partitions(device).await.map_err(prepare)?;
    let (candidates, groups) = candidates(disk, listed, guest).await?;
    let mut roots = roots(guest, &candidates).await?;
    if let Some(name) = wanted {
        let (meant, others): (Vec<_>, Vec<_>) =
            roots.into_iter().partition(|(root, ..)| root.is_called(name));
        if meant.is_empty() {
            return Err(complaints::no_such_root(disk, name, &others));
        }
        roots = meant;
    }
    let [(root, subvolume, fstab)] = roots.as_slice() else {
        return Err(complaints::no_single_root(disk, &candidates, &roots));
    };
    let root: &Candidate = root;
    let mut mounts = vec![(root, "/".to_owned(), subvolume.clone())];
    for entry in parse_fstab(fstab) {
        if entry.place == "/" {
            continue;
        }
        match resolve(&entry, &candidates) {
            Some(found) => mounts.push((found, entry.place, entry.subvolume)),
            None if entry.optional => {}
            None => cx.warn(format!(
                "{} of the image's fstab is not mounted: `{}` is not on its disk",
                entry.place, entry.source
            )),
        }
    }
    cx.state.nodes.extend(nodes(disk, &candidates, groups, &mounts));
    set_facts(cx.plan, guest, cx.state)?;
    cx.state.facts.insert("root-device".into(), root.device.clone());
    cx.emit(&Event::Message {
        text: format!(
            "the root filesystem is {} ({}), with {} more mounted",
            root.node,
            root.tag("TYPE"),
            mounts.len() - 1
        ),
    });
    Ok(())
}

/// Runs the step `FindDevices`: adds the layout of a disk, with the wanted devices, to the state.
pub(crate) async fn find_devices(
    disk: &str,
    wanted: &[FoundDevice],
    cx: &mut StepContext<'_>,
) -> Result<(), EngineError> {
    let (guest, state) = (cx.guest, &mut *cx.state);
    let prepare = |source| EngineError::Prepare { action: "list drives".into(), source };
    // The partition table is not read again, since volumes on the disk may be in use already.
    let mut listed = guest.session.block_devices().await.map_err(prepare)?;
    let device = attached(disk, guest)?;
    let serial = listed.iter().find(|known| known.path == device).map(|own| own.serial.clone());
    listed.retain(|known| Some(&known.serial) == serial.as_ref());
    let (mut candidates, groups) = candidates(disk, listed, guest).await?;
    let mut filesystems = Vec::new();
    for device in wanted {
        let is_it = |candidate: &&mut Candidate| match &device.place {
            DevicePlace::Disk => candidate.node == disk,
            DevicePlace::Partition(number) => candidate.number == Some(*number),
            DevicePlace::Volume(group, name) => candidate.node == format!("{group}/{name}"),
        };
        let Some(found) = candidates.iter_mut().find(is_it) else {
            let text = format!("there is no {} on the disk `{disk}`", device.place);
            return Err(EngineError::Recipe(text));
        };
        found.node.clone_from(&device.name);
        if found.tag("USAGE") == "filesystem" {
            filesystems.push(filesystem_node(device.filesystem.clone(), found));
        }
    }
    let mut nodes = nodes(disk, &candidates, groups, &[]);
    nodes.extend(filesystems);
    nodes.retain(|made| !state.nodes.iter().any(|known| known.node.name == made.node.name));
    for made in &nodes {
        if let NodeKind::Filesystem(found) = &made.node.kind {
            state.facts.insert(format!("fstype.{}", made.node.name), found.fstype.clone());
        }
    }
    state.nodes.extend(nodes);
    set_facts(cx.plan, guest, state)
}

/// Runs the step `ForgetLayout`: closes the layout, and removes its nodes and facts from the state.
pub(crate) async fn forget(guest: &Guest, state: &mut State) -> Result<(), EngineError> {
    close(guest, state).await?;
    for made in std::mem::take(&mut state.nodes) {
        let names = made.partitions.iter().map(|(name, _)| name).chain([&made.node.name]);
        for name in names {
            for prefix in ["device", "uuid", "label"] {
                state.facts.remove(&format!("{prefix}.{name}"));
            }
        }
    }
    Ok(())
}

fn attached<'a>(disk: &str, guest: &'a Guest) -> Result<&'a str, EngineError> {
    let found = guest.device(disk).map(|(device, _)| device);
    found.ok_or_else(|| EngineError::Recipe(format!("the disk `{disk}` is not attached")))
}

/// Lists the devices on the disk that could contain a filesystem, and its volume groups.
async fn candidates(
    disk: &str,
    listed: Vec<BlockDevice>,
    guest: &Guest,
) -> Result<(Vec<Candidate>, Vec<Group>), EngineError> {
    let mut candidates: Vec<Candidate> = listed
        .into_iter()
        .map(|found| Candidate {
            node: found.partition.map_or_else(|| disk.to_owned(), |n| format!("{disk}-part{n}")),
            device: found.path,
            number: found.partition,
            tags: BTreeMap::new(),
        })
        .collect();
    complaints::check_count(disk, candidates.len())?;
    probe(guest, &mut candidates).await?;
    let mut groups = Vec::new();
    if candidates.iter().any(|candidate| candidate.tag("TYPE") == "LVM2_member") {
        groups = activate(guest, &candidates).await?;
        let mut volumes: Vec<Candidate> = groups
            .iter()
            .flat_map(|(group, volumes)| {
                volumes.iter().map(move |volume| Candidate {
                    node: format!("{group}/{volume}"),
                    device: format!("/dev/{group}/{volume}"),
                    ..Candidate::default()
                })
            })
            .collect();
        complaints::check_count(disk, volumes.len())?;
        probe(guest, &mut volumes).await?;
        candidates.extend(volumes);
    }
    Ok((candidates, groups))
}

/// Reads the properties of devices from blkid, whose exit status is 2 for an empty device.
async fn probe(guest: &Guest, candidates: &mut [Candidate]) -> Result<(), EngineError> {
    for candidate in candidates {
        let argv = ["blkid", "-p", "-o", "export", &candidate.device];
        let output = guest.tool_output(&argv, b"").await?;
        candidate.tags = parse_export(&String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// Parses lines of the form `NAME=value`. blkid writes a backslash before unusual characters.
fn parse_export(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace('\\', "")))
        .collect()
}

/// Activates the volume groups on the candidates, and lists their volumes.
async fn activate(guest: &Guest, candidates: &[Candidate]) -> Result<Vec<Group>, EngineError> {
    let pvs = ["pvs", "--noheadings", "--separator", "|", "-o", "vg_name,pv_name"];
    let said = guest.run_tool(&pvs).await?;
    let mut groups: Vec<Group> = Vec::new();
    for (group, device) in pairs(&String::from_utf8_lossy(&said)) {
        let ours = candidates.iter().any(|candidate| candidate.device == device);
        if ours && !groups.iter().any(|(known, _)| *known == group) {
            groups.push((group, Vec::new()));
        }
    }
    for (group, volumes) in &mut groups {
        guest.run_tool(&["vgchange", "-ay", group]).await?;
        let lvs = ["lvs", "--noheadings", "--separator", "|", "-o", "vg_name,lv_name", group];
        let said = guest.run_tool(&lvs).await?;
        volumes.extend(pairs(&String::from_utf8_lossy(&said)).map(|(_, volume)| volume));
    }
    Ok(groups)
}

/// Parses lines of the form `a|b` in reports of LVM. Lines without a group are unused physical
/// volumes, which are left out. So are names that begin with a dash, which LVM does not allow.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.lines()
        .filter_map(|line| line.trim().split_once('|'))
        .map(|(one, two)| (one.trim().to_owned(), two.trim().to_owned()))
        .filter(|(one, two)| !one.is_empty() && !two.is_empty() && !one.starts_with('-'))
}

/// Finds the candidates that contain a root, each with the subvolume of the root and its fstab.
async fn roots<'a>(
    guest: &Guest,
    candidates: &'a [Candidate],
) -> Result<Vec<(&'a Candidate, Option<String>, String)>, EngineError> {
    let mut roots = Vec::new();
    for candidate in candidates {
        if !ROOT_TYPES.contains(&candidate.tag("TYPE")) {
            continue;
        }
        let action = format!("look at {}", candidate.device);
        let prepare = |source| EngineError::Prepare { action: action.clone(), source };
        let session = &guest.session;
        let mounted =
            guest::mount(session, &candidate.device, INSPECT, candidate.tag("TYPE"), &["ro"]).await;
        if let Err(source) = mounted {
            tracing::warn!(device = candidate.device, error = %source, "not looked at");
            continue;
        }
        let mut found = None;
        let subvolumes: &[&str] =
            if candidate.tag("TYPE") == "btrfs" { &ROOT_SUBVOLUMES } else { &[] };
        for subvolume in std::iter::once(None).chain(subvolumes.iter().copied().map(Some)) {
            let root =
                subvolume.map_or_else(|| INSPECT.to_owned(), |name| format!("{INSPECT}/{name}"));
            if is_root(guest, &root).await.map_err(prepare)? {
                let fstab = session.get_file(&root, "/etc/fstab", FSTAB_MAX_BYTES).await;
                let fstab = String::from_utf8_lossy(&fstab.unwrap_or_default()).into_owned();
                found = Some((candidate, subvolume.map(str::to_owned), fstab));
                break;
            }
        }
        session.unmount(INSPECT).await.map_err(prepare)?;
        roots.extend(found);
    }
    Ok(roots)
}

/// Whether a tree can be the root of a system: it has /etc, and /bin or /usr/bin.
async fn is_root(guest: &Guest, root: &str) -> Result<bool, SessionError> {
    let session = &guest.session;
    let exists =
        async |root: &str, path: &str| session.stat(root, path).await.map(|stat| stat.is_some());
    if !exists("/", root).await? || !exists(root, "/etc").await? {
        return Ok(false);
    }
    Ok(exists(root, "/bin").await? || exists(root, "/usr/bin").await?)
}

/// A line of fstab that mounts a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FstabLine {
    source: String,
    place: String,
    subvolume: Option<String>,
    optional: bool,
}

fn parse_fstab(text: &str) -> Vec<FstabLine> {
    let kernel = ["swap", "proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "nfs", "nfs4", "cifs"];
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (source, place, fstype) = (words.next()?, words.next()?, words.next()?);
            let options: Vec<&str> = words.next().unwrap_or_default().split(',').collect();
            let clean = place.starts_with('/') && !place.split('/').any(|part| part == "..");
            let bind = options.iter().any(|option| matches!(*option, "bind" | "rbind" | "noauto"));
            (clean && !bind && !kernel.contains(&fstype)).then(|| FstabLine {
                source: source.trim_matches('"').to_owned(),
                place: place.to_owned(),
                subvolume: options
                    .iter()
                    .find_map(|option| option.strip_prefix("subvol="))
                    .map(str::to_owned),
                optional: options.contains(&"nofail"),
            })
        })
        .collect()
}

/// Finds the device that a line of fstab means.
fn resolve<'a>(line: &FstabLine, candidates: &'a [Candidate]) -> Option<&'a Candidate> {
    let (kind, value) = line.source.split_once('=').unwrap_or(("", &line.source));
    let value = value.trim_matches('"');
    match kind {
        "" => by_path(value, candidates),
        kind => candidates.iter().find(|candidate| candidate.has(kind, value)),
    }
}

/// Finds a device by a path: `/dev/disk/by-*/…`, `/dev/GROUP/VOLUME`, `/dev/mapper/GROUP-VOLUME`,
/// or one such as `/dev/sda2`. Of the latter only the partition number counts, since the disk may
/// have had another name where the image was made.
fn by_path<'a>(path: &str, candidates: &'a [Candidate]) -> Option<&'a Candidate> {
    if let Some((kind, value)) =
        path.strip_prefix("/dev/disk/by-").and_then(|rest| rest.split_once('/'))
    {
        let source = format!("{}={value}", kind.to_ascii_uppercase());
        let line = FstabLine { source, place: String::new(), subvolume: None, optional: false };
        return resolve(&line, candidates);
    }
    if let Some(mapped) = path.strip_prefix("/dev/mapper/") {
        return candidates.iter().find(|candidate| {
            candidate.node.split_once('/').is_some_and(|(group, volume)| {
                format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--")) == mapped
            })
        });
    }
    let name = path.strip_prefix("/dev/")?;
    if let Some(volume) = candidates.iter().find(|candidate| candidate.node == name) {
        return Some(volume);
    }
    let disk = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number: u32 = name[disk.len()..].parse().ok()?;
    let known = ["sd", "vd", "xvd", "hd", "nvme", "mmcblk"];
    (known.iter().any(|prefix| disk.starts_with(prefix)))
        .then(|| candidates.iter().find(|candidate| candidate.number == Some(number)))?
}

/// Creates the node for the filesystem on a candidate.
fn filesystem_node(name: String, candidate: &Candidate) -> MadeNode {
    let tag = |name| Some(candidate.tag(name).to_owned()).filter(|text| !text.is_empty());
    let found = Filesystem {
        base: candidate.node.clone(),
        fstype: candidate.tag("TYPE").to_owned(),
        label: tag("LABEL"),
        uuid: tag("UUID"),
        options: Vec::new(),
    };
    let node = Node { name, kind: NodeKind::Filesystem(found) };
    MadeNode { node, partitions: Vec::new(), uuid: tag("UUID") }
}

/// Creates the nodes of the detected layout, with bases before the nodes on them.
fn nodes(
    disk: &str,
    candidates: &[Candidate],
    groups: Vec<Group>,
    mounts: &[(&Candidate, String, Option<String>)],
) -> Vec<MadeNode> {
    let made = |name: String, kind| MadeNode {
        node: Node { name, kind },
        partitions: Vec::new(),
        uuid: None,
    };
    let mut nodes = Vec::new();
    let partitions: Vec<(String, u32)> = candidates
        .iter()
        .filter_map(|candidate| Some((candidate.node.clone(), candidate.number?)))
        .collect();
    if !partitions.is_empty() {
        let gpt = candidates.iter().any(|candidate| candidate.tag("PTTYPE") == "gpt");
        let table = PartitionTable {
            disk: disk.to_owned(),
            label: if gpt { TableLabel::Gpt } else { TableLabel::Mbr },
            placing: Placing::Exact { extended: None },
            partitions: Vec::new(),
        };
        let name = format!("{disk}-table");
        nodes.push(MadeNode { partitions, ..made(name, NodeKind::Table(table)) });
    }
    for (group, volumes) in groups {
        let bases = Vec::new();
        nodes.push(made(group.clone(), NodeKind::VolumeGroup { bases, options: Vec::new() }));
        nodes.extend(volumes.into_iter().map(|volume| {
            let found = LogicalVolume {
                group: group.clone(),
                size: LvSize::Bytes(0),
                thin_pool: None,
                is_thin_pool: false,
                options: Vec::new(),
            };
            made(format!("{group}/{volume}"), NodeKind::LogicalVolume(found))
        }));
    }
    let mut known: Vec<&str> = Vec::new();
    for (candidate, place, subvolume) in mounts {
        let name = format!("{}:fs", candidate.node);
        if !known.contains(&candidate.node.as_str()) {
            known.push(&candidate.node);
            nodes.push(filesystem_node(name.clone(), candidate));
        }
        let options = subvolume.iter().map(|name| format!("subvol={name}")).collect();
        let fstab = FstabEntry { options, dump: 0, pass: 0, by_uuid: true };
        let mount = Mount { base: name, mount_point: place.clone(), fstab: Some(fstab) };
        nodes.push(made(format!("{}:{place}", candidate.node), NodeKind::Mount(mount)));
    }
    nodes
}

/// Parses a text as reports of blkid and LVM and as an fstab, for the fuzz target.
pub(crate) fn read_reports(text: &str) {
    let candidates: Vec<Candidate> = text
        .split("\n\n")
        .enumerate()
        .map(|(index, report)| Candidate {
            node: format!("disk-part{index}"),
            device: format!("/dev/vda{index}"),
            number: u32::try_from(index).ok(),
            tags: parse_export(report),
        })
        .collect();
    for line in parse_fstab(text) {
        assert!(line.place.starts_with('/') && !line.place.split('/').any(|part| part == ".."));
        let _ = resolve(&line, &candidates);
    }
    for (one, other) in pairs(text) {
        assert!(!one.is_empty() && !one.starts_with('-') && !other.is_empty());
    }
}

#[cfg(test)]
mod tests;
