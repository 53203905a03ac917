//! The dependency graph of nodes, and their creation order.
//!
//! Uses Kahn's algorithm, generation by generation, with nodes and edges in configuration order.
//! The order equals the original's and is the same on every run.

use std::collections::BTreeMap;

use super::{
    BlockDeviceError,
    declare::{self, Fstab, Loop, Mkfs, Table},
    expand::{Entry, Module},
    lvm::{self, Lvm},
};

/// The kind of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Loop(Loop),
    /// A partition of the table with this index in [`Graph::tables`].
    Partition(usize),
    /// The point at which everything in an lvm entry is created.
    Lvm(Lvm),
    PhysicalVolume,
    VolumeGroup,
    LogicalVolume,
    Luks(plan::Luks),
    Md(plan::MdArray),
    Mkfs(Mkfs),
    Mount {
        base: String,
        place: String,
    },
    Fstab(Fstab),
}

impl Kind {
    /// Whether the node is a block device, so that a filesystem, volume or container can use it.
    pub(crate) fn is_device(&self) -> bool {
        matches!(
            self,
            Self::Loop(_) | Self::Partition(_) | Self::LogicalVolume | Self::Luks(_) | Self::Md(_)
        )
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GraphNode {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    from: Vec<String>,
    to: Vec<String>,
}

/// All nodes of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<GraphNode>,
    pub(crate) tables: Vec<Table>,
    labels: Vec<String>,
    mounts: Vec<(String, String)>,
}

impl Graph {
    /// Reads all entries and checks every name.
    pub(crate) fn build(
        entries: &[Entry],
        block_bytes: Option<u32>,
    ) -> Result<Self, BlockDeviceError> {
        let mut graph = Self::default();
        for entry in entries {
            graph.add_entry(entry, block_bytes)?;
        }
        graph.chain_mounts();
        graph.check_edges()?;
        Ok(graph)
    }

    fn add_entry(
        &mut self,
        entry: &Entry,
        block_bytes: Option<u32>,
    ) -> Result<(), BlockDeviceError> {
        let name = entry.name();
        match entry.module {
            Module::LocalLoop => {
                let disk = declare::local_loop(entry, block_bytes)?;
                self.add(name, Kind::Loop(disk), Vec::new(), Vec::new())
            }
            Module::Partitioning => self.add_table(declare::partitioning(entry)?),
            Module::Lvm => self.add_lvm(lvm::lvm(entry)?),
            Module::Luks => {
                let luks = declare::luks(entry)?;
                let base = luks.base.clone();
                self.add(name, Kind::Luks(luks), vec![base], Vec::new())
            }
            Module::Md => {
                let array = declare::md(entry)?;
                let bases = array.bases.clone();
                self.add(name, Kind::Md(array), bases, Vec::new())
            }
            Module::Mkfs => {
                let mkfs = declare::mkfs(entry, &mut self.labels)?;
                let base = mkfs.base.clone();
                self.add(name, Kind::Mkfs(mkfs), vec![base], Vec::new())
            }
            Module::Mount => {
                let (base, place) = declare::mount(entry)?;
                if self.mounts.iter().any(|(other, _)| *other == place) {
                    return Err(BlockDeviceError::DuplicateMountPoint(place));
                }
                self.mounts.push((place.clone(), name.clone()));
                self.add(name, Kind::Mount { base: base.clone(), place }, vec![base], Vec::new())
            }
            Module::Fstab => {
                let fstab = declare::fstab(entry)?;
                let base = fstab.base.clone();
                self.add(name, Kind::Fstab(fstab), vec![base], Vec::new())
            }
        }
    }

    fn add(
        &mut self,
        name: String,
        kind: Kind,
        from: Vec<String>,
        to: Vec<String>,
    ) -> Result<(), BlockDeviceError> {
        if self.find(&name).is_some() {
            return Err(BlockDeviceError::DuplicateName(name));
        }
        self.nodes.push(GraphNode { name, kind, from, to });
        Ok(())
    }

    /// Adds a table with its partitions. Each partition depends on its base and on the partition
    /// before it.
    fn add_table(&mut self, table: Table) -> Result<(), BlockDeviceError> {
        let index = self.tables.len();
        let mut previous: Option<String> = None;
        for partition in &table.partitions {
            let from = std::iter::once(table.base.clone()).chain(previous.take()).collect();
            self.add(partition.name.clone(), Kind::Partition(index), from, Vec::new())?;
            previous = Some(partition.name.clone());
        }
        self.tables.push(table);
        Ok(())
    }

    /// Adds an lvm entry. Its node depends on the devices of its physical volumes; everything else
    /// in the entry depends on the node.
    fn add_lvm(&mut self, lvm: Lvm) -> Result<(), BlockDeviceError> {
        for volume in &lvm.physical {
            self.add(volume.name.clone(), Kind::PhysicalVolume, Vec::new(), Vec::new())?;
        }
        for group in &lvm.groups {
            self.add(group.name.clone(), Kind::VolumeGroup, group.bases.clone(), Vec::new())?;
        }
        for (name, volume) in &lvm.logical {
            self.add(name.clone(), Kind::LogicalVolume, vec![volume.group.clone()], Vec::new())?;
        }
        let mut from: Vec<String> = Vec::new();
        for volume in &lvm.physical {
            if !from.contains(&volume.base) {
                from.push(volume.base.clone());
            }
        }
        let to = lvm.physical.iter().map(|volume| volume.name.clone()).collect();
        self.add(lvm.name.clone(), Kind::Lvm(lvm), from, to)
    }

    /// Orders the mounts by mount point, so that parents are mounted before children.
    fn chain_mounts(&mut self) {
        self.mounts.sort();
        for pair in self.mounts.windows(2) {
            let [(_, before), (_, after)] = pair else { continue };
            if let Some(node) = self.nodes.iter_mut().find(|node| node.name == *after) {
                node.from.insert(0, before.clone());
            }
        }
    }

    fn check_edges(&self) -> Result<(), BlockDeviceError> {
        for node in &self.nodes {
            let edges = node
                .from
                .iter()
                .map(|from| (from, &node.name, from))
                .chain(node.to.iter().map(|to| (&node.name, to, to)));
            for (from, to, must_exist) in edges {
                if self.find(must_exist).is_none() {
                    return Err(BlockDeviceError::EdgeNotDefined {
                        from: from.clone(),
                        to: to.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, name: &str) -> Option<&GraphNode> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The indices of the nodes in creation order.
    pub(crate) fn order(&self) -> Result<Vec<usize>, BlockDeviceError> {
        let index: BTreeMap<&str, usize> =
            self.nodes.iter().enumerate().map(|(at, node)| (node.name.as_str(), at)).collect();
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        let mut waiting: Vec<usize> = vec![0; self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            let edges = node
                .from
                .iter()
                .map(|from| (index[from.as_str()], at))
                .chain(node.to.iter().map(|to| (at, index[to.as_str()])));
            for (from, to) in edges.collect::<Vec<_>>() {
                if !children[from].contains(&to) {
                    children[from].push(to);
                    waiting[to] += 1;
                }
            }
        }
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut generation: Vec<usize> =
            (0..self.nodes.len()).filter(|at| waiting[*at] == 0).collect();
        while !generation.is_empty() {
            let mut next = Vec::new();
            for at in generation {
                order.push(at);
                for child in &children[at] {
                    waiting[*child] -= 1;
                    if waiting[*child] == 0 {
                        next.push(*child);
                    }
                }
            }
            generation = next;
        }
        match (0..self.nodes.len()).find(|at| waiting[*at] > 0) {
            Some(at) => Err(BlockDeviceError::Cycle(self.nodes[at].name.clone())),
            None => Ok(order),
        }
    }

    /// The filesystem on which the mount is based.
    pub(crate) fn mkfs(&self, name: &str) -> Option<&Mkfs> {
        match &self.find(name)?.kind {
            Kind::Mkfs(mkfs) => Some(mkfs),
            _ => None,
        }
    }
}
