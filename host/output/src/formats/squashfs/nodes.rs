//! The tree in memory, from the members of the archive.

use std::collections::BTreeMap;

use tar_stream::Entry;

use super::xattr::{NO_XATTRS, Xattrs};

/// Memory for one tree, in bytes. A distribution with sources and documentation
/// has some 500,000 files, which take 250 MiB; four times that is let through.
const TREE_MAX_BYTES: u64 = 1 << 30;

/// What a node takes beside its name, its link and its blocks, in bytes: itself,
/// twice because the list of all grows by doubling, and its inode.
const NODE_BYTES: u64 = 2 * size_of::<Node>() as u64 + 96;

/// What a name in a directory takes beside its bytes: the vector, the number, the
/// share of a tree node that is half full, and the entry that is written.
const NAME_BYTES: u64 = 128;

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
    /// The index of its set of attributes.
    pub(super) xattrs: u32,
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
    pub(super) fn block(&mut self, index: usize, at: u64, field: u32) {
        self.at.get_or_insert(at);
        self.blocks[index] = field;
    }
}

/// All nodes; the first is the root.
#[derive(Debug)]
pub(super) struct Nodes {
    all: Vec<Node>,
    xattrs: Xattrs,
    /// Bytes of memory that may still be taken.
    left: u64,
    /// What a regular file's data goes to when a later member has replaced it.
    removed: File,
}

impl Default for Nodes {
    fn default() -> Self {
        Self::within(TREE_MAX_BYTES)
    }
}

/// A directory that the archive does not describe.
fn implied_directory() -> Node {
    Node {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: NO_XATTRS,
        links: 1,
        body: Body::Directory,
        children: BTreeMap::new(),
    }
}

impl Nodes {
    /// A tree that takes so many bytes of memory at most.
    fn within(left: u64) -> Self {
        let (xattrs, removed) = (Xattrs::default(), File::default());
        Self { all: vec![implied_directory()], xattrs, left, removed }
    }

    /// Takes memory from what is left.
    fn take(&mut self, bytes: u64) -> Result<(), &'static str> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or("the tree has more files, names or attributes than are kept")?;
        Ok(())
    }

    /// The sets of attributes.
    pub(super) fn xattrs(&self) -> &Xattrs {
        &self.xattrs
    }

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

    /// Begins a file of so many bytes, in so many blocks.
    pub(super) fn start_file(
        &mut self,
        id: NodeId,
        size: u64,
        blocks: usize,
    ) -> Result<(), &'static str> {
        // The list, and the inode that repeats it.
        self.take(2 * 4 * blocks as u64)?;
        *self.file_mut(id) = File { size, blocks: vec![0; blocks], ..File::default() };
        Ok(())
    }

    /// Adds a member; what was there by its name is replaced, except that a
    /// directory only gets new owners and modes.
    pub(super) fn add(&mut self, entry: &Entry, body: Body) -> Result<NodeId, &'static str> {
        let (xattrs, bytes) = self.xattrs.index(&entry.xattrs);
        self.take(bytes + entry.link.len() as u64)?;
        let node = Node {
            mode: u16::try_from(entry.mode & 0o7777).unwrap_or_default(),
            uid: entry.uid,
            gid: entry.gid,
            // Times outside of the format's range become its ends.
            mtime: u32::try_from(entry.mtime.0.max(0)).unwrap_or(u32::MAX),
            xattrs,
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
        // A name that is replaced stays counted.
        self.take(NAME_BYTES + 2 * name.len() as u64)?;
        self.all[parent].children.insert(name.to_vec(), id);
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<NodeId, &'static str> {
        self.take(NODE_BYTES)?;
        self.all.push(node);
        Ok(self.all.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use tar_stream::Kind;

    use super::*;

    /// A small tree's worth of memory.
    const BUDGET: u64 = 8 << 20;

    fn entry(path: &str) -> Entry {
        Entry {
            path: path.split('/').map(|part| part.as_bytes().to_vec()).collect(),
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            link: Vec::new(),
            hard_link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            extents: None,
        }
    }

    /// Adds members until the budget is spent, and holds what was taken against it.
    #[track_caller]
    fn fill(mut add: impl FnMut(&mut Nodes, usize) -> Result<(), &'static str>) {
        memory_bound::within(BUDGET + BUDGET / 4, || {
            let mut nodes = Nodes::within(BUDGET);
            let full = (0..10_000_000).find_map(|number| add(&mut nodes, number).err());
            let full = full.expect("the budget ends");
            assert_eq!(full, "the tree has more files, names or attributes than are kept");
        });
    }

    #[test]
    fn whatever_a_tree_consists_of_stays_within_its_memory() {
        // Directories that are only implied, of the longest names.
        fill(|nodes, number| {
            let path = format!("{number:0>255}/{number:0>255}/d");
            nodes.add(&entry(&path), Body::Directory).map(drop)
        });
        // Nothing but names.
        fill(|nodes, number| {
            if number == 0 {
                nodes.add(&entry("file"), Body::default())?;
            }
            nodes.link(&Entry { hard_link: vec![b"file".to_vec()], ..entry(&format!("{number}")) })
        });
        // One name for ever.
        fill(|nodes, _| nodes.add(&entry("file"), Body::default()).map(drop));
        // Links as long as they can be.
        fill(|nodes, number| {
            let link = vec![b'a'; 4095];
            let entry = Entry { link: link.clone(), ..entry(&format!("{number}")) };
            nodes.add(&entry, Body::Symlink(link)).map(drop)
        });
        // Attributes, the largest and the smallest that all differ.
        for length in [1, 65_536] {
            fill(|nodes, number| {
                let name = format!("user.{number}").into_bytes();
                let xattrs = vec![(name, vec![b'v'; length])];
                let entry = Entry { xattrs, ..entry("file") };
                nodes.add(&entry, Body::Directory).map(drop)
            });
        }
        // Blocks of files that are all holes.
        fill(|nodes, number| {
            let id = nodes.add(&entry(&format!("{number}")), Body::default())?;
            nodes.start_file(id, 1000 << 17, 1000)
        });
    }

    #[test]
    fn the_same_attributes_are_kept_once() {
        memory_bound::within(4 << 20, || {
            let mut nodes = Nodes::default();
            let xattrs = vec![(b"security.selinux".to_vec(), vec![b'v'; 1 << 16])];
            for number in 0..1000 {
                let entry = Entry { xattrs: xattrs.clone(), ..entry(&format!("{number}")) };
                nodes.add(&entry, Body::default()).unwrap();
            }
        });
    }
}
