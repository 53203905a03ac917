//! Writes inodes and directory lists.
//!
//! A directory's list refers to the inodes of its children, and its own inode to the list: so
//! children are written before their directory, and the root is last.

use std::{collections::HashMap, num::TryFromIntError};

use super::{
    BLOCK_BYTES,
    meta::{Meta, Place},
    nodes::{Body, File, Node, NodeId, Nodes},
    xattr::NO_XATTRS,
};

/// Maximum entries after one header in a directory list.
const RUN_ENTRIES: usize = 256;

/// Fragment index of a file without a fragment.
const NO_FRAGMENT: u32 = u32::MAX;

/// Difference between the numbers of a basic and an extended type.
const EXTENDED: u16 = 7;

/// The tables under construction.
pub(super) struct Tables {
    pub(super) inodes: Meta,
    pub(super) directories: Meta,
    pub(super) ids: Vec<u32>,
    id_index: HashMap<u32, u16>,
    /// Inode number of each node, from 1; 0 while unassigned.
    numbers: Vec<u32>,
    /// Position of each node's inode, once it is written.
    places: Vec<Option<Place>>,
    next_number: u32,
}

type Result<T> = std::result::Result<T, TryFromIntError>;

impl Tables {
    pub(super) fn new(compress: bool) -> Self {
        Self {
            inodes: Meta::new(compress),
            directories: Meta::new(compress),
            ids: Vec::new(),
            id_index: HashMap::new(),
            numbers: Vec::new(),
            places: Vec::new(),
            next_number: 1,
        }
    }

    /// Writes all nodes, the root last; returns the reference of the root inode.
    pub(super) fn write(&mut self, nodes: &Nodes) -> Result<u64> {
        self.numbers = vec![0; nodes.len()];
        self.places = vec![None; nodes.len()];
        // The root's parent is a number that no inode has.
        self.directory(nodes, 0, nodes.count() + 1)?;
        Ok(self.places[0].map_or(0, Place::reference))
    }

    fn number(&mut self, id: NodeId) -> u32 {
        if self.numbers[id] == 0 {
            self.numbers[id] = self.next_number;
            self.next_number += 1;
        }
        self.numbers[id]
    }

    /// Writes a directory. Recursion depth is bounded by the depth of the archive's paths.
    fn directory(&mut self, nodes: &Nodes, id: NodeId, parent: u32) -> Result<()> {
        let node = nodes.get(id);
        let own = self.number(id);
        // Assign numbers first and in order, so that those of one directory are close together.
        for child in node.children.values() {
            self.number(*child);
        }
        for child in node.children.values().copied() {
            if matches!(nodes.get(child).body, Body::Directory) {
                self.directory(nodes, child, own)?;
            } else if self.places[child].is_none() {
                self.file(nodes.get(child), child)?;
            }
        }
        let listed_at = self.directories.place();
        let (size, subdirectories) = self.list(nodes, node)?;
        let xattrs = node.xattrs;
        // The size includes three bytes for `.` and `..`, which are not stored.
        let size = size + 3;
        self.places[id] = Some(self.inodes.place());
        let mut inode = Vec::new();
        let links = subdirectories + 2;
        if let (Ok(short), NO_XATTRS) = (u16::try_from(size), xattrs) {
            self.common(&mut inode, 1, node, own)?;
            inode.extend_from_slice(&listed_at.block.to_le_bytes());
            inode.extend_from_slice(&links.to_le_bytes());
            inode.extend_from_slice(&short.to_le_bytes());
            inode.extend_from_slice(&listed_at.offset.to_le_bytes());
            inode.extend_from_slice(&parent.to_le_bytes());
        } else {
            self.common(&mut inode, 1 + EXTENDED, node, own)?;
            for field in [links, size, listed_at.block, parent] {
                inode.extend_from_slice(&field.to_le_bytes());
            }
            // No directory index.
            inode.extend_from_slice(&0u16.to_le_bytes());
            inode.extend_from_slice(&listed_at.offset.to_le_bytes());
            inode.extend_from_slice(&xattrs.to_le_bytes());
        }
        self.inodes.append(&inode);
        Ok(())
    }

    /// Writes a directory's list; returns its size and the number of subdirectories.
    fn list(&mut self, nodes: &Nodes, node: &Node) -> Result<(u32, u32)> {
        let mut size = 0;
        let mut subdirectories = 0;
        let children: Vec<_> = node.children.iter().collect();
        let mut rest = children.as_slice();
        while let Some((_, first)) = rest.first() {
            let place_of = |id: NodeId| self.places[id].map(|place| place.block);
            let (block, base) = (place_of(**first), self.numbers[**first]);
            // The entries after a header are in one metadata block, with numbers close to the
            // header's.
            let belongs = |(_, id): &&(&Vec<u8>, &NodeId)| {
                place_of(**id) == block
                    && i16::try_from(i64::from(self.numbers[**id]) - i64::from(base)).is_ok()
            };
            let count = rest.iter().take(RUN_ENTRIES).take_while(belongs).count();
            let (run, later) = rest.split_at(count);
            rest = later;
            let mut bytes = Vec::new();
            let header = [u32::try_from(count)? - 1, block.unwrap_or_default(), base];
            header.iter().for_each(|field| bytes.extend_from_slice(&field.to_le_bytes()));
            for (name, id) in run {
                let child = nodes.get(**id);
                let offset = self.places[**id].map_or(0, |place| place.offset);
                let delta = i16::try_from(i64::from(self.numbers[**id]) - i64::from(base))?;
                bytes.extend_from_slice(&offset.to_le_bytes());
                bytes.extend_from_slice(&delta.to_le_bytes());
                bytes.extend_from_slice(&kind(&child.body).to_le_bytes());
                bytes.extend_from_slice(&u16::try_from(name.len() - 1)?.to_le_bytes());
                bytes.extend_from_slice(name);
                subdirectories += u32::from(matches!(child.body, Body::Directory));
            }
            size += u32::try_from(bytes.len())?;
            self.directories.append(&bytes);
        }
        Ok((size, subdirectories))
    }

    fn file(&mut self, node: &Node, id: NodeId) -> Result<()> {
        let number = self.number(id);
        let xattrs = node.xattrs;
        self.places[id] = Some(self.inodes.place());
        let mut inode = Vec::new();
        let extended = xattrs != NO_XATTRS;
        let code = kind(&node.body) + if extended { EXTENDED } else { 0 };
        match &node.body {
            Body::File(file) => {
                self.regular(&mut inode, node, file, number, xattrs)?;
                self.inodes.append(&inode);
                return Ok(());
            }
            Body::Symlink(target) => {
                self.common(&mut inode, code, node, number)?;
                inode.extend_from_slice(&node.links.to_le_bytes());
                inode.extend_from_slice(&u32::try_from(target.len())?.to_le_bytes());
                inode.extend_from_slice(target);
            }
            Body::Device { number: (major, minor), .. } => {
                self.common(&mut inode, code, node, number)?;
                inode.extend_from_slice(&node.links.to_le_bytes());
                // The kernel's 32-bit encoding: 12 bits of major, 20 bits of minor.
                let device = minor & 0xff | (major & 0xfff) << 8 | (minor & 0xfff00) << 12;
                inode.extend_from_slice(&device.to_le_bytes());
            }
            Body::Fifo | Body::Directory => {
                self.common(&mut inode, code, node, number)?;
                inode.extend_from_slice(&node.links.to_le_bytes());
            }
        }
        if extended {
            inode.extend_from_slice(&xattrs.to_le_bytes());
        }
        self.inodes.append(&inode);
        Ok(())
    }

    fn regular(
        &mut self,
        inode: &mut Vec<u8>,
        node: &Node,
        file: &File,
        number: u32,
        xattrs: u32,
    ) -> Result<()> {
        let start = file.at.unwrap_or_default();
        let (fragment, offset) =
            file.fragment.map_or((NO_FRAGMENT, 0), |fragment| (fragment.index, fragment.offset));
        let holes = file.blocks.iter().filter(|field| **field == 0).count() as u64;
        let sparse = (holes * BLOCK_BYTES as u64).min(file.size);
        let short = u32::try_from(start).ok().zip(u32::try_from(file.size).ok());
        let plain = node.links == 1 && xattrs == NO_XATTRS && sparse == 0;
        if let Some((start, size)) = short.filter(|_| plain) {
            self.common(inode, 2, node, number)?;
            for field in [start, fragment, offset, size] {
                inode.extend_from_slice(&field.to_le_bytes());
            }
        } else {
            self.common(inode, 2 + EXTENDED, node, number)?;
            for field in [start, file.size, sparse] {
                inode.extend_from_slice(&field.to_le_bytes());
            }
            for field in [node.links, fragment, offset, xattrs] {
                inode.extend_from_slice(&field.to_le_bytes());
            }
        }
        for field in &file.blocks {
            inode.extend_from_slice(&field.to_le_bytes());
        }
        Ok(())
    }

    fn common(&mut self, inode: &mut Vec<u8>, code: u16, node: &Node, number: u32) -> Result<()> {
        let (uid, gid) = (self.id(node.uid)?, self.id(node.gid)?);
        for field in [code, node.mode, uid, gid] {
            inode.extend_from_slice(&field.to_le_bytes());
        }
        inode.extend_from_slice(&node.mtime.to_le_bytes());
        inode.extend_from_slice(&number.to_le_bytes());
        Ok(())
    }

    /// The index of a user or group id in the id table.
    fn id(&mut self, id: u32) -> Result<u16> {
        if let Some(index) = self.id_index.get(&id) {
            return Ok(*index);
        }
        let index = u16::try_from(self.ids.len())?;
        self.ids.push(id);
        self.id_index.insert(id, index);
        Ok(index)
    }
}

/// The type number in directory lists and basic inodes.
fn kind(body: &Body) -> u16 {
    match body {
        Body::Directory => 1,
        Body::File(_) => 2,
        Body::Symlink(_) => 3,
        Body::Device { block: true, .. } => 4,
        Body::Device { block: false, .. } => 5,
        Body::Fifo => 6,
    }
}
