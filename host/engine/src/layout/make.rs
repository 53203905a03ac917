//! Creates the nodes of a layout, with one match arm for each kind of node.

use plan::{Layout, LogicalVolume, Luks, LvSize, MdArray, Node, NodeKind, PartitionTable};
use uuid::Uuid;

use super::{
    facts::set_facts,
    mkfs,
    nodes::{device, hash_name},
    open::open_luks,
    partition,
};
use crate::{EngineError, guest::Guest, state::MadeNode, step_context::StepContext};

/// LVM's default extent. The sizes of logical volumes are rounded down to multiples of it.
const LVM_EXTENT_BYTES: u64 = 4 * 1024 * 1024;

/// Creates the nodes of a layout one after another, and sets their facts.
pub(crate) async fn create(layout: &Layout, cx: &mut StepContext<'_>) -> Result<(), EngineError> {
    for node in &layout.nodes {
        let made = make(node, cx).await?;
        cx.state.nodes.push(made);
    }
    set_facts(cx.plan, cx.guest, cx.state)
}

async fn make(node: &Node, cx: &StepContext<'_>) -> Result<MadeNode, EngineError> {
    let (guest, config) = (cx.guest, cx.config);
    let mut made = MadeNode { node: node.clone(), partitions: Vec::new(), uuid: None };
    let base = |name: &str| device(name, guest, cx.state);
    match &node.kind {
        NodeKind::Table(table) => made.partitions = make_table(table, cx).await?,
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
            let uuid = config.identifier(&node.name).to_string();
            make_luks(guest, luks, &base(&luks.base)?, &uuid).await?;
            open_luks(guest, &node.name, luks, &base(&luks.base)?).await?;
            made.uuid = Some(uuid);
        }
        NodeKind::Md(md) => {
            let devices: Vec<String> =
                md.bases.iter().map(|name| base(name)).collect::<Result<_, _>>()?;
            let uuid = config.identifier(&node.name);
            make_md(guest, &node.name, md, &devices, uuid).await?;
            made.uuid = Some(uuid.to_string());
        }
        NodeKind::Filesystem(filesystem) => {
            let uuid = filesystem
                .uuid
                .clone()
                .unwrap_or_else(|| config.identifier(&node.name).to_string());
            let seed = config.identifier(&hash_name(&node.name));
            let device = base(&filesystem.base)?;
            made.uuid = mkfs::make(guest, filesystem, &device, (uuid, seed)).await?;
        }
        NodeKind::Mount(_) => {}
    }
    tracing::debug!(node = node.name, kernel = cx.session().hello().kernel, "made");
    Ok(made)
}

async fn make_table(
    table: &PartitionTable,
    cx: &StepContext<'_>,
) -> Result<Vec<(String, u32)>, EngineError> {
    let (device, bytes) = cx
        .guest
        .device(&table.disk)
        .ok_or_else(|| EngineError::Recipe(format!("the disk `{}` is not attached", table.disk)))?;
    let block = cx
        .plan
        .disks
        .iter()
        .find(|disk| disk.name == *table.disk)
        .map_or(512, |disk| u64::from(disk.block_bytes));
    let image = partition::lay_out(table, bytes, block, &|name| cx.config.identifier(name))?;
    let prepare = |source| EngineError::Prepare {
        action: format!("write the partition table of `{}`", table.disk),
        source,
    };
    for (offset, bytes) in &image.writes {
        cx.session().write_block(device, *offset, bytes).await.map_err(prepare)?;
    }
    cx.session().reread_partitions(device).await.map_err(prepare)?;
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
    guest.run_tool(&argv).await.map(drop)
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
    guest.run_tool(&words).await.map(drop)
}

/// The largest sector size of LUKS2.
const LUKS_SECTOR_BYTES: u64 = 4096;

async fn make_luks(
    guest: &Guest,
    luks: &Luks,
    device: &str,
    uuid: &str,
) -> Result<(), EngineError> {
    let mut argv =
        vec!["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--uuid", uuid];
    // cryptsetup uses sectors of 4096 bytes if the disk has them, even if the size of the partition
    // is not a multiple of them. Then it cannot open the container that it has made. LUKS1 has no
    // choice of the sector size.
    if !luks.options.iter().any(|option| option.ends_with("luks1")) {
        let size = guest.run_tool(&["blockdev", "--getsize64", device]).await?;
        let size: Option<u64> = String::from_utf8_lossy(&size).trim().parse().ok();
        if size.is_none_or(|bytes| bytes % LUKS_SECTOR_BYTES != 0) {
            argv.extend(["--sector-size", "512"]);
        }
    }
    argv.extend(luks.options.iter().map(String::as_str));
    argv.extend(["--key-file", "-", device]);
    guest.run_tool_with(&argv, luks.passphrase.as_bytes()).await.map(drop)
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
    guest.run_tool(&argv).await.map(drop)
}
