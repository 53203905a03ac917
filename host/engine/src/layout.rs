//! Makes disk layouts, and opens them again in a fresh guest.
//!
//! Each kind of node has one arm in `make` and one in `open`; devices are
//! found by serial and partition number, never by letter.

use plan::{
    Filesystem, Layout, LogicalVolume, Luks, LvSize, MdArray, Node, NodeKind, PartitionTable, Plan,
};
use uuid::Uuid;

use crate::{
    Config, EngineError, MadeNode, State, canonical, context,
    guest::{Guest, run_tool, run_tool_with, tool},
    mkfs, partition,
};

/// Logical volumes are multiples of LVM's default extent.
const LVM_EXTENT_BYTES: u64 = 4 * 1024 * 1024;

/// An identifier for a named thing: from the seed, or random without one.
pub(crate) fn identifier(config: &Config, name: &str) -> Uuid {
    match &config.seed {
        Some(seed) => Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{seed}/{name}").as_bytes()),
        None => Uuid::new_v4(),
    }
}

/// The filesystem node of this name.
pub(crate) fn filesystem<'a>(state: &'a State, name: &str) -> Option<&'a Filesystem> {
    state.nodes.iter().find_map(|made| match &made.node.kind {
        NodeKind::Filesystem(filesystem) if made.node.name == name => Some(filesystem),
        _ => None,
    })
}

/// The block device that a node (or disk, or partition) stands for.
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
                // One that was found is named with its group, see `adopt`.
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

/// The kernel's name of a partition: `/dev/vda1`, `/dev/nvme0n1p1`.
fn partition_node(disk: &str, number: u32) -> String {
    let digit = disk.chars().last().is_some_and(|last| last.is_ascii_digit());
    format!("{disk}{}{number}", if digit { "p" } else { "" })
}

/// Makes the nodes of a layout, one after another, and sets their facts.
pub(crate) async fn create(
    layout: &Layout,
    plan: &Plan,
    config: &Config,
    guest: &Guest,
    state: &mut State,
) -> Result<(), EngineError> {
    for node in &layout.nodes {
        let made = make(node, plan, config, guest, state).await?;
        state.nodes.push(made);
    }
    set_facts(plan, guest, state)
}

async fn make(
    node: &Node,
    plan: &Plan,
    config: &Config,
    guest: &Guest,
    state: &State,
) -> Result<MadeNode, EngineError> {
    let mut made = MadeNode { node: node.clone(), partitions: Vec::new(), uuid: None };
    let base = |name: &str| device(name, guest, state);
    let session = &guest.session;
    match &node.kind {
        NodeKind::Table(table) => made.partitions = make_table(table, plan, config, guest).await?,
        NodeKind::PhysicalVolume { base: name, options } => {
            let device = base(name)?;
            run_words(guest, &["pvcreate", "-ff", "--yes"], options, &[&device]).await?;
        }
        NodeKind::VolumeGroup { bases, options } => {
            let devices: Vec<String> =
                bases.iter().map(|name| base(name)).collect::<Result<_, _>>()?;
            let mut tail = vec![node.name.as_str()];
            tail.extend(devices.iter().map(String::as_str));
            run_words(guest, &["vgcreate", "--yes"], options, &tail).await?;
        }
        NodeKind::LogicalVolume(volume) => make_volume(guest, &node.name, volume).await?,
        NodeKind::Luks(luks) => {
            let uuid = identifier(config, &node.name).to_string();
            make_luks(guest, luks, &base(&luks.base)?, &uuid).await?;
            open_luks(guest, &node.name, luks, &base(&luks.base)?).await?;
            made.uuid = Some(uuid);
        }
        NodeKind::Md(md) => {
            let devices: Vec<String> =
                md.bases.iter().map(|name| base(name)).collect::<Result<_, _>>()?;
            let uuid = identifier(config, &node.name);
            make_md(guest, &node.name, md, &devices, uuid).await?;
            made.uuid = Some(uuid.to_string());
        }
        NodeKind::Filesystem(filesystem) => {
            let uuid = filesystem
                .uuid
                .clone()
                .unwrap_or_else(|| identifier(config, &node.name).to_string());
            let seed = identifier(config, &canonical::hash_name(&node.name));
            let device = base(&filesystem.base)?;
            made.uuid = mkfs::make(guest, filesystem, &device, (uuid, seed)).await?;
        }
        NodeKind::Mount(_) => {}
    }
    tracing::debug!(node = node.name, session = ?session.hello().kernel, "made");
    Ok(made)
}

async fn make_table(
    table: &PartitionTable,
    plan: &Plan,
    config: &Config,
    guest: &Guest,
) -> Result<Vec<(String, u32)>, EngineError> {
    let (device, bytes) = guest
        .device(&table.disk)
        .ok_or_else(|| EngineError::Recipe(format!("the disk `{}` is not attached", table.disk)))?;
    let block = plan
        .disks
        .iter()
        .find(|disk| disk.name == *table.disk)
        .map_or(512, |disk| u64::from(disk.block_bytes));
    let image = partition::lay_out(table, bytes, block, &|name| identifier(config, name))?;
    let prepare = |source| EngineError::Prepare {
        action: format!("write the partition table of `{}`", table.disk),
        source,
    };
    for (offset, bytes) in &image.writes {
        guest.session.write_block(device, *offset, bytes).await.map_err(prepare)?;
    }
    guest.session.reread_partitions(device).await.map_err(prepare)?;
    Ok(image.partitions.into_iter().map(|placed| (placed.name, placed.number)).collect())
}

async fn run_words(
    guest: &Guest,
    head: &[&str],
    options: &[String],
    tail: &[&str],
) -> Result<(), EngineError> {
    let argv: Vec<&str> = head
        .iter()
        .copied()
        .chain(options.iter().map(String::as_str))
        .chain(tail.iter().copied())
        .collect();
    run_tool(&guest.session, &argv).await.map(drop)
}

async fn make_volume(guest: &Guest, name: &str, volume: &LogicalVolume) -> Result<(), EngineError> {
    let mut argv = vec!["lvcreate".to_owned(), "--yes".into(), "--name".into(), name.into()];
    if volume.is_thin_pool {
        argv.extend(["--type".into(), "thin-pool".into()]);
    } else if volume.thin_pool.is_none() {
        argv.extend(["--wipesignatures".into(), "n".into()]);
    }
    match &volume.size {
        LvSize::Bytes(bytes) => {
            let rounded = bytes / LVM_EXTENT_BYTES * LVM_EXTENT_BYTES;
            let word = if volume.thin_pool.is_some() { "-V" } else { "-L" };
            argv.extend([word.into(), format!("{rounded}B")]);
        }
        LvSize::Extents(extents) => argv.extend(["-l".into(), extents.clone()]),
    }
    if let Some(pool) = &volume.thin_pool {
        argv.extend(["--type".into(), "thin".into(), "--thinpool".into(), pool.clone()]);
    }
    argv.extend(volume.options.iter().cloned());
    argv.push(volume.group.clone());
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    run_tool(&guest.session, &words).await.map(drop)
}

/// The largest sectors that LUKS2 has.
const LUKS_SECTOR_BYTES: u64 = 4096;

async fn make_luks(
    guest: &Guest,
    luks: &Luks,
    device: &str,
    uuid: &str,
) -> Result<(), EngineError> {
    let mut argv =
        vec!["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--uuid", uuid];
    // cryptsetup takes sectors of 4096 bytes where the disk has them, even for a partition
    // that ends within one, and then cannot open what it has made. LUKS1 has no choice.
    if !luks.options.iter().any(|option| option.ends_with("luks1")) {
        let size = run_tool(&guest.session, &["blockdev", "--getsize64", device]).await?;
        let size: Option<u64> = String::from_utf8_lossy(&size).trim().parse().ok();
        if size.is_none_or(|bytes| bytes % LUKS_SECTOR_BYTES != 0) {
            argv.extend(["--sector-size", "512"]);
        }
    }
    argv.extend(luks.options.iter().map(String::as_str));
    argv.extend(["--key-file", "-", device]);
    run_tool_with(&guest.session, &argv, luks.passphrase.as_bytes()).await.map(drop)
}

async fn open_luks(
    guest: &Guest,
    name: &str,
    luks: &Luks,
    device: &str,
) -> Result<(), EngineError> {
    let argv = ["cryptsetup", "open", "--allow-discards", "--key-file", "-", device, name];
    run_tool_with(&guest.session, &argv, luks.passphrase.as_bytes()).await.map(drop)
}

async fn make_md(
    guest: &Guest,
    name: &str,
    md: &MdArray,
    devices: &[String],
    uuid: Uuid,
) -> Result<(), EngineError> {
    let count = format!("--raid-devices={}", devices.len());
    let node = format!("/dev/md/{name}");
    let (level, metadata) =
        (format!("--level={}", md.level), format!("--metadata={}", md.metadata));
    let uuid = format!("--uuid={uuid}");
    let mut argv = vec!["mdadm", "--create", &node, "--run", "--assume-clean", "--homehost=any"];
    argv.extend([level.as_str(), metadata.as_str(), uuid.as_str(), count.as_str()]);
    argv.extend(devices.iter().map(String::as_str));
    run_tool(&guest.session, &argv).await.map(drop)
}

/// Sets `device.NAME`, `uuid.NAME`, `label.NAME` and the two facts that
/// diskimage-builder's scripts know the whole by.
pub(crate) fn set_facts(plan: &Plan, guest: &Guest, state: &mut State) -> Result<(), EngineError> {
    let mut devices: Vec<(String, String)> =
        guest.disks.iter().map(|(name, device, _)| (name.clone(), device.clone())).collect();
    for made in &state.nodes {
        devices.extend(
            made.partitions
                .iter()
                .map(|(name, _)| Ok((name.clone(), device(name, guest, state)?)))
                .collect::<Result<Vec<_>, EngineError>>()?,
        );
        if matches!(
            made.node.kind,
            NodeKind::LogicalVolume(_) | NodeKind::Luks(_) | NodeKind::Md(_)
        ) {
            devices.push((made.node.name.clone(), device(&made.node.name, guest, state)?));
        }
    }
    let targets: Vec<&str> = plan
        .disks
        .iter()
        .filter(|disk| disk.role == plan::DiskRole::Target)
        .map(|disk| disk.name.as_str())
        .collect();
    let scratch = |name: &str| {
        plan.disks.iter().any(|disk| disk.name == name && disk.role == plan::DiskRole::Scratch)
    };
    devices.retain(|(name, _)| !scratch(name));
    let list: String =
        devices.iter().map(|(name, device)| format!(" [{name}]={device} ")).collect();
    state.facts.insert("image-block-devices".into(), list);
    // Without any node it would look like a device that a script has made.
    if !state.nodes.is_empty()
        && let Some((device, _)) = targets.first().and_then(|name| guest.device(name))
    {
        state.facts.entry("image-block-device".into()).or_insert_with(|| device.to_owned());
    }
    for (name, device) in devices {
        state.facts.insert(format!("device.{name}"), device);
    }
    for made in &state.nodes {
        let name = &made.node.name;
        if let Some(uuid) = &made.uuid {
            state.facts.insert(format!("uuid.{name}"), uuid.clone());
        }
        if let NodeKind::Filesystem(Filesystem { label: Some(label), .. }) = &made.node.kind {
            state.facts.insert(format!("label.{name}"), label.clone());
        }
    }
    Ok(())
}

/// Opens what was made by earlier stages in a guest that has just started:
/// partitions appear by themselves, volumes and containers do not. The facts
/// that name devices are set anew, because letters may have changed.
pub(crate) async fn open(plan: &Plan, guest: &Guest, state: &mut State) -> Result<(), EngineError> {
    if state.nodes.is_empty() {
        return Ok(());
    }
    for made in &state.nodes {
        match &made.node.kind {
            NodeKind::VolumeGroup { .. } => {
                run_tool(&guest.session, &["vgchange", "-ay", &made.node.name]).await?;
            }
            NodeKind::Luks(luks) => {
                open_luks(guest, &made.node.name, luks, &device(&luks.base, guest, state)?).await?;
            }
            NodeKind::Md(md) => {
                let node = format!("/dev/md/{}", made.node.name);
                let devices: Vec<String> = md
                    .bases
                    .iter()
                    .map(|name| device(name, guest, state))
                    .collect::<Result<_, _>>()?;
                let mut argv = vec!["mdadm", "--assemble", "--run", &node];
                argv.extend(devices.iter().map(String::as_str));
                run_tool(&guest.session, &argv).await?;
            }
            _ => {}
        }
    }
    state.facts.remove("image-block-device");
    set_facts(plan, guest, state)
}

/// Closes volumes and containers, last made first, before the guest goes down.
/// A volume that cannot be closed is one that something still uses.
pub(crate) async fn close(guest: &Guest, state: &State) -> Result<(), EngineError> {
    for made in state.nodes.iter().rev() {
        let name = made.node.name.as_str();
        match &made.node.kind {
            NodeKind::VolumeGroup { .. } => {
                run_tool(&guest.session, &["vgchange", "-an", name]).await?;
            }
            NodeKind::Luks(_) => {
                run_tool(&guest.session, &["cryptsetup", "close", name]).await?;
            }
            NodeKind::Md(_) => {
                run_tool(&guest.session, &["mdadm", "--stop", &format!("/dev/md/{name}")]).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The lines of fstab for the layout's mounts, in mount order.
pub(crate) fn fstab(state: &State) -> Result<String, EngineError> {
    let mut lines = Vec::new();
    for made in &state.nodes {
        let NodeKind::Mount(mount) = &made.node.kind else { continue };
        let Some(entry) = &mount.fstab else { continue };
        let filesystem = filesystem(state, &mount.base).ok_or_else(|| {
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

/// Discards the free blocks of every mounted filesystem of the layout; those
/// that cannot (vfat) are passed over.
pub(crate) async fn trim(guest: &Guest) -> Result<(), EngineError> {
    let mounts = guest.mounted.iter().map(|mounted| &mounted.spec);
    for at in mounts.filter(|mount| context::is_of_layout(mount)).map(|mount| &mount.target) {
        let script = format!("fstrim --verbose {at} || true");
        let output = guest
            .session
            .output(tool(&["sh", "-c", &script]), b"")
            .await
            .map_err(|source| EngineError::Prepare { action: format!("trim {at}"), source })?;
        tracing::debug!(at, said = %String::from_utf8_lossy(&output.stdout), "trimmed");
    }
    Ok(())
}
