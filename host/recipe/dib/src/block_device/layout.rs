//! Lowers the ordered graph to the plan's disks and layout.

use std::path::{Component, Path};

use plan::{
    DiskName, Filesystem, FstabEntry, Layout, Mount, Node, NodeKind, PartitionTable, Placing,
    TableLabel,
};

use super::{
    BlockDeviceError, ConfigOrigin,
    declare::{Fstab, Mkfs},
    graph::{Graph, GraphNode, Kind},
    lvm::Lvm,
};

/// A disk that the configuration declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskDeclaration {
    /// The name of the local_loop.
    pub(crate) name: DiskName,
    /// Its size in bytes; `None` means the size of the image.
    pub(crate) bytes: Option<u64>,
    /// Logical block size in bytes: 512 or 4096.
    pub(crate) block_bytes: u32,
    /// The host directory in which its raw file is kept.
    pub(crate) directory: Option<String>,
}

/// The disks and layout of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockDevices {
    pub(crate) disks: Vec<DiskDeclaration>,
    pub(crate) layout: Layout,
}

impl BlockDevices {
    /// Refuses a disk directory outside of the current directory if it comes from an element and
    /// not from the user.
    pub(crate) fn check_directories(&self, origin: &ConfigOrigin) -> Result<(), BlockDeviceError> {
        let ConfigOrigin::Element(path) = origin else { return Ok(()) };
        for disk in &self.disks {
            let Some(directory) = &disk.directory else { continue };
            let below = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            if !Path::new(directory).components().all(below) {
                return Err(BlockDeviceError::Directory {
                    path: path.clone(),
                    disk: disk.name.clone(),
                    directory: directory.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Name of the disk that becomes the image.
pub(crate) const IMAGE_DISK: &str = "image0";

/// Lowers a graph to disks and a layout.
pub(crate) fn lower(
    graph: Graph,
    uuid_of: &dyn Fn(&str) -> String,
) -> Result<BlockDevices, BlockDeviceError> {
    let order = graph.order()?;
    let mut lowering = Lowering {
        graph: &graph,
        uuid_of,
        tables_made: vec![false; graph.tables.len()],
        nodes: Vec::new(),
        disks: Vec::new(),
    };
    for at in order {
        lowering.add(&graph.nodes[at])?;
    }
    if !lowering.disks.iter().any(|disk| disk.name == IMAGE_DISK) {
        return Err(BlockDeviceError::NoImage);
    }
    Ok(BlockDevices { disks: lowering.disks, layout: Layout { nodes: lowering.nodes } })
}

struct Lowering<'a> {
    graph: &'a Graph,
    uuid_of: &'a dyn Fn(&str) -> String,
    tables_made: Vec<bool>,
    nodes: Vec<Node>,
    disks: Vec<DiskDeclaration>,
}

impl Lowering<'_> {
    fn add(&mut self, node: &GraphNode) -> Result<(), BlockDeviceError> {
        let name = node.name.clone();
        match &node.kind {
            Kind::Loop(disk) => self.disks.push(DiskDeclaration {
                name: DiskName::new(name).map_err(BlockDeviceError::DiskName)?,
                bytes: disk.bytes,
                block_bytes: disk.block_bytes,
                directory: disk.directory.clone(),
            }),
            Kind::Partition(table) => self.add_table(*table)?,
            Kind::Lvm(lvm) => self.add_lvm(lvm)?,
            Kind::PhysicalVolume | Kind::VolumeGroup | Kind::LogicalVolume => {}
            Kind::Luks(luks) => {
                self.device(&name, &luks.base)?;
                self.push(name, NodeKind::Luks(luks.clone()));
            }
            Kind::Md(array) => {
                for base in &array.bases {
                    self.device(&name, base)?;
                }
                self.push(name, NodeKind::Md(array.clone()));
            }
            Kind::Mkfs(mkfs) => {
                self.device(&name, &mkfs.base)?;
                let filesystem = self.filesystem(&name, mkfs);
                self.push(name, NodeKind::Filesystem(filesystem));
            }
            Kind::Mount { base, place } => {
                let mount = self.mount(&name, base, place)?;
                self.push(name, NodeKind::Mount(mount));
            }
            // Lowered together with its mount.
            Kind::Fstab(_) => {}
        }
        Ok(())
    }

    fn push(&mut self, name: String, kind: NodeKind) {
        self.nodes.push(Node { name, kind });
    }

    fn device(&self, node: &str, base: &str) -> Result<(), BlockDeviceError> {
        match self.graph.find(base) {
            Some(found) if found.kind.is_device() => Ok(()),
            _ => Err(BlockDeviceError::NotADevice { node: node.to_owned(), base: base.to_owned() }),
        }
    }

    /// Adds a partition table with its first partition. The table's node needs a name that no
    /// partition has; the grammar does not require the user to choose one.
    fn add_table(&mut self, index: usize) -> Result<(), BlockDeviceError> {
        if std::mem::replace(&mut self.tables_made[index], true) {
            return Ok(());
        }
        let table = &self.graph.tables[index];
        let Some(Kind::Loop(disk)) = self.graph.find(&table.base).map(|node| &node.kind) else {
            return Err(BlockDeviceError::TableBase {
                table: table.name.clone(),
                base: table.base.clone(),
            });
        };
        if table.label == TableLabel::Mbr && disk.block_bytes != 512 {
            return Err(BlockDeviceError::MbrBlocks(table.name.clone()));
        }
        let mut name = table.name.clone();
        let taken = |name: &str| {
            self.graph.find(name).is_some() || self.nodes.iter().any(|node| node.name == name)
        };
        while taken(&name) {
            name.push_str("_table");
        }
        let kind = NodeKind::Table(PartitionTable {
            disk: table.base.clone(),
            label: table.label,
            placing: Placing::InOrder { align: table.align },
            partitions: table.partitions.clone(),
        });
        self.push(name, kind);
        Ok(())
    }

    fn add_lvm(&mut self, lvm: &Lvm) -> Result<(), BlockDeviceError> {
        for volume in &lvm.physical {
            self.device(&volume.name, &volume.base)?;
            let kind = NodeKind::PhysicalVolume {
                base: volume.base.clone(),
                options: volume.options.clone(),
            };
            self.push(volume.name.clone(), kind);
        }
        for group in &lvm.groups {
            let kind = NodeKind::VolumeGroup {
                bases: group.bases.clone(),
                options: group.options.clone(),
            };
            self.push(group.name.clone(), kind);
        }
        for (name, volume) in &lvm.logical {
            self.push(name.clone(), NodeKind::LogicalVolume(volume.clone()));
        }
        Ok(())
    }

    fn filesystem(&self, name: &str, mkfs: &Mkfs) -> Filesystem {
        // FAT has a 32-bit serial number instead of a UUID. The original sets a UUID for these
        // types only; btrfs gets one too, so that two builds of one recipe agree.
        let takes_uuid =
            matches!(mkfs.fstype.as_str(), "ext2" | "ext3" | "ext4" | "xfs" | "swap" | "btrfs");
        let uuid = mkfs.uuid.clone().or_else(|| takes_uuid.then(|| (self.uuid_of)(name)));
        Filesystem {
            base: mkfs.base.clone(),
            fstype: mkfs.fstype.clone(),
            label: Some(mkfs.label.clone()),
            uuid,
            options: mkfs.options.clone(),
        }
    }

    fn mount(&self, name: &str, base: &str, place: &str) -> Result<Mount, BlockDeviceError> {
        let mkfs = self.graph.mkfs(base).ok_or_else(|| BlockDeviceError::NotAFilesystem {
            node: name.to_owned(),
            base: base.to_owned(),
        })?;
        let swap = mkfs.fstype == "swap";
        let mount_point = match place {
            _ if swap => "none".to_owned(),
            absolute if absolute.starts_with('/') => absolute.to_owned(),
            relative => format!("/{relative}"),
        };
        let fstab = self.graph.nodes.iter().find_map(|node| match &node.kind {
            Kind::Fstab(fstab) if fstab.base == name => Some(entry(fstab, swap)),
            _ => None,
        });
        Ok(Mount { base: base.to_owned(), mount_point, fstab })
    }
}

fn entry(fstab: &Fstab, swap: bool) -> FstabEntry {
    FstabEntry {
        options: if swap { "sw".to_owned() } else { fstab.options.clone() },
        dump: if swap { 0 } else { fstab.dump },
        pass: if swap { 0 } else { fstab.pass },
        by_uuid: false,
    }
}
