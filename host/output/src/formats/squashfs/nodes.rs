//! The tree in memory, from the members of the archive.

use std::collections::BTreeMap;

use crate::archive::Entry;

/// Files and directories of one tree; at some 300 bytes each a bound on memory
/// that no operating system's tree comes near.
const MAX_NODES: usize = 1 << 22;

/// Longest name of an entry in a squashfs directory.
const MAX_NAME_BYTES: usize = 256;

/// Index of a node.
pub(super) type NodeId = usize;

/// A file of any kind.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u32,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) links: u32,
    pub(super) body: Body,
    pub(super) children: BTreeMap<Vec<u8>, NodeId>,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Body {
    Directory,
    File(File),
    Symlink(Vec<u8>),
    Device { block: bool, number: (u32, u32) },
    Fifo,
}

impl Default for Body {
    fn default() -> Self {
        Self::File(File::default())
    }
}

/// Where a regular file's bytes are.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) size: u64,
    /// Where the first block is; later ones follow it.
    pub(super) at: Option<u64>,
    /// Size fields of the blocks; 0 is a hole.
    pub(super) blocks: Vec<u32>,
    pub(super) fragment: Option<Fragment>,
}

/// A small file's place in a fragment block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fragment {
    pub(super) index: u32,
    pub(super) offset: u32,
}

impl File {
    pub(super) fn start(&mut self, size: u64, blocks: usize) {
        *self = Self { size, blocks: vec![0; blocks], ..Self::default() };
    }

    pub(super) fn block(&mut self, index: usize, at: u64, field: u32) {
        self.at.get_or_insert(at);
        self.blocks[index] = field;
    }
}

/// All nodes; the first is the root.
#[derive(Debug)]
pub(super) struct Nodes {
    all: Vec<Node>,
    /// What a regular file's data goes to when a later member has replaced it.
    removed: File,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { all: vec![implied_directory()], removed: File::default() }
    }
}

/// A directory that the archive does not describe.
fn implied_directory() -> Node {
    Node {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Vec::new(),
        links: 1,
        body: Body::Directory,
        children: BTreeMap::new(),
    }
}

impl Nodes {
    pub(super) fn get(&self, id: NodeId) -> &Node {
        &self.all[id]
    }

    /// The nodes that can be reached by a name, which are those that count.
    pub(super) fn count(&self) -> u32 {
        let live = self.all.iter().filter(|node| node.links > 0).count();
        u32::try_from(live).unwrap_or(u32::MAX)
    }

    /// Nodes ever made: an upper bound of ids.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn file_mut(&mut self, id: NodeId) -> &mut File {
        match &mut self.all[id].body {
            Body::File(file) => file,
            _ => &mut self.removed,
        }
    }

    /// Adds a member; what was there by its name is replaced, except that a
    /// directory only gets new owners and modes.
    pub(super) fn add(&mut self, entry: &Entry, body: Body) -> Result<NodeId, &'static str> {
        let node = Node {
            mode: u16::try_from(entry.mode & 0o7777).unwrap_or_default(),
            uid: entry.uid,
            gid: entry.gid,
            mtime: u32::try_from(entry.mtime).unwrap_or(u32::MAX),
            xattrs: entry.xattrs.clone(),
            links: 1,
            body,
            children: BTreeMap::new(),
        };
        let is_directory = matches!(node.body, Body::Directory);
        let Some((name, parents)) = entry.path.split_last() else {
            if !is_directory {
                return Err("the root of the tree is no directory");
            }
            let children = std::mem::take(&mut self.all[0].children);
            self.all[0] = Node { children, ..node };
            return Ok(0);
        };
        let parent = self.directory(parents)?;
        if let Some(old) = self.all[parent].children.get(name).copied() {
            let was_directory = matches!(self.all[old].body, Body::Directory);
            if was_directory && is_directory {
                let children = std::mem::take(&mut self.all[old].children);
                self.all[old] = Node { children, ..node };
                return Ok(old);
            }
            if was_directory && !self.all[old].children.is_empty() {
                return Err("a file where a directory with files already is");
            }
            self.all[old].links -= 1;
        }
        let id = self.push(node)?;
        self.name(parent, name, id)?;
        Ok(id)
    }

    /// Adds another name for a file.
    pub(super) fn link(&mut self, entry: &Entry) -> Result<(), &'static str> {
        const NOWHERE: &str = "a hard link to no file before it";
        let (target, parents) = entry.hard_link.split_last().ok_or(NOWHERE)?;
        let found = self.find(parents).and_then(|dir| self.all[dir].children.get(target).copied());
        let id = found.ok_or(NOWHERE)?;
        if matches!(self.all[id].body, Body::Directory) {
            return Err("a hard link to a directory");
        }
        let (name, parents) = entry.path.split_last().ok_or("a hard link that is the root")?;
        let parent = self.directory(parents)?;
        if let Some(old) = self.all[parent].children.get(name).copied() {
            if old == id {
                return Ok(());
            }
            if matches!(self.all[old].body, Body::Directory) {
                return Err("a hard link where a directory is");
            }
            self.all[old].links -= 1;
        }
        self.all[id].links = self.all[id].links.checked_add(1).ok_or("too many links")?;
        self.name(parent, name, id)
    }

    fn find(&self, path: &[Vec<u8>]) -> Option<NodeId> {
        path.iter().try_fold(0, |dir: NodeId, name| self.all[dir].children.get(name).copied())
    }

    /// The directory of that path; what the archive does not describe is made.
    fn directory(&mut self, path: &[Vec<u8>]) -> Result<NodeId, &'static str> {
        let mut dir = 0;
        for name in path {
            dir = match self.all[dir].children.get(name).copied() {
                Some(id) if matches!(self.all[id].body, Body::Directory) => id,
                Some(_) => return Err("a file below something that is no directory"),
                None => {
                    let id = self.push(implied_directory())?;
                    self.name(dir, name, id)?;
                    id
                }
            };
        }
        Ok(dir)
    }

    fn name(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<(), &'static str> {
        if name.len() > MAX_NAME_BYTES {
            return Err("a name that is too long");
        }
        self.all[parent].children.insert(name.to_vec(), id);
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<NodeId, &'static str> {
        if self.all.len() >= MAX_NODES {
            return Err("too many files");
        }
        self.all.push(node);
        Ok(self.all.len() - 1)
    }
}
