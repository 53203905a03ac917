//! The tree in memory, built from the members of the archive.

use std::collections::BTreeMap;

use tar_stream::Entry;

use super::xattr::{NO_XATTRS, Xattrs};

/// Memory limit for one tree, in bytes. A distribution with sources and documentation has some
/// 500,000 files, which take 250 MiB; the limit is four times that.
const TREE_MAX_BYTES: u64 = 1 << 30;

/// Memory charged for a node beside its name, link and blocks, in bytes: the node, twice because
/// the vector grows by doubling, and its inode.
const NODE_BYTES: u64 = 2 * size_of::<Node>() as u64 + 96;

/// Memory charged for a directory entry beside its name: the vector, the number, the share of a
/// half-full map node, and the written entry.
const NAME_BYTES: u64 = 128;

/// Maximum length of a file name in squashfs.
const MAX_NAME_BYTES: usize = 256;

/// Index of a node.
pub(super) type NodeId = usize;

/// A file of any type.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: u32,
    /// The index of its attribute set.
    pub(super) xattrs: u32,
    pub(super) links: u32,
    pub(super) body: Body,
    pub(super) children: BTreeMap<Vec<u8>, NodeId>,
}

/// The type-specific part of a node.
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

/// The data blocks of a regular file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) size: u64,
    /// The offset of the first block; the others follow it.
    pub(super) at: Option<u64>,
    /// Size fields of the blocks; 0 is a hole.
    pub(super) blocks: Vec<u32>,
    pub(super) fragment: Option<Fragment>,
}

/// The position of a small file in a fragment block.
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
    /// Bytes of memory left.
    left: u64,
    /// Receives the data of a regular file that a later member has replaced.
    removed: File,
}

impl Default for Nodes {
    fn default() -> Self {
        Self::within(TREE_MAX_BYTES)
    }
}

/// A directory that is only implied by paths.
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
    /// An empty tree with a memory limit.
    fn within(left: u64) -> Self {
        let (xattrs, removed) = (Xattrs::default(), File::default());
        Self { all: vec![implied_directory()], xattrs, left, removed }
    }

    /// Charges memory against the limit.
    fn take(&mut self, bytes: u64) -> Result<(), &'static str> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or("the tree has more files, names or attributes than are kept")?;
        Ok(())
    }

    /// The attribute sets.
    pub(super) fn xattrs(&self) -> &Xattrs {
        &self.xattrs
    }

    pub(super) fn get(&self, id: NodeId) -> &Node {
        &self.all[id]
    }

    /// The number of nodes that are reachable by name.
    pub(super) fn count(&self) -> u32 {
        let live = self.all.iter().filter(|node| node.links > 0).count();
        u32::try_from(live).unwrap_or(u32::MAX)
    }

    /// The number of nodes ever created: an upper bound of ids.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn file_mut(&mut self, id: NodeId) -> &mut File {
        match &mut self.all[id].body {
            Body::File(file) => file,
            _ => &mut self.removed,
        }
    }

    /// Starts a file with the given size and number of blocks.
    pub(super) fn start_file(
        &mut self,
        id: NodeId,
        size: u64,
        blocks: usize,
    ) -> Result<(), &'static str> {
        // Charges the list, and the inode that repeats it.
        self.take(2 * 4 * blocks as u64)?;
        *self.file_mut(id) = File { size, blocks: vec![0; blocks], ..File::default() };
        Ok(())
    }

    /// Adds a member. It replaces an existing one of the same name; an existing directory only gets
    /// the new owner and mode.
    pub(super) fn add(&mut self, entry: &Entry, body: Body) -> Result<NodeId, &'static str> {
        let (xattrs, bytes) = self.xattrs.index(&entry.xattrs);
        self.take(bytes + entry.link.len() as u64)?;
        let node = Node {
            mode: u16::try_from(entry.mode & 0o7777).unwrap_or_default(),
            uid: entry.uid,
            gid: entry.gid,
            // Times outside of the format's range are clamped.
            mtime: u32::try_from(entry.mtime.0.max(0)).unwrap_or(u32::MAX),
            xattrs,
            links: 1,
            body,
            children: BTreeMap::new(),
        };
        let is_directory = matches!(node.body, Body::Directory);
        let Some((name, parents)) = entry.path.split_last() else {
            if !is_directory {
                return Err("the root of the tree is not a directory");
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

    /// Adds a hard link to a file.
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

    /// The directory at a path; missing directories are created.
    fn directory(&mut self, path: &[Vec<u8>]) -> Result<NodeId, &'static str> {
        let mut dir = 0;
        for name in path {
            dir = match self.all[dir].children.get(name).copied() {
                Some(id) if matches!(self.all[id].body, Body::Directory) => id,
                Some(_) => return Err("a file below something that is not a directory"),
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
        // A replaced name stays charged.
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

    /// A memory limit for tests.
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

    /// Adds members until the limit is reached, and compares the real allocation with it.
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
        // Implied directories with the longest names.
        fill(|nodes, number| {
            let path = format!("{number:0>255}/{number:0>255}/d");
            nodes.add(&entry(&path), Body::Directory).map(drop)
        });
        // Hard links only.
        fill(|nodes, number| {
            if number == 0 {
                nodes.add(&entry("file"), Body::default())?;
            }
            nodes.link(&Entry { hard_link: vec![b"file".to_vec()], ..entry(&format!("{number}")) })
        });
        // The same name repeatedly.
        fill(|nodes, _| nodes.add(&entry("file"), Body::default()).map(drop));
        // The longest symbolic links.
        fill(|nodes, number| {
            let link = vec![b'a'; 4095];
            let entry = Entry { link: link.clone(), ..entry(&format!("{number}")) };
            nodes.add(&entry, Body::Symlink(link)).map(drop)
        });
        // Distinct attribute sets, of the largest and the smallest kind.
        for length in [1, 65_536] {
            fill(|nodes, number| {
                let name = format!("user.{number}").into_bytes();
                let xattrs = vec![(name, vec![b'v'; length])];
                let entry = Entry { xattrs, ..entry("file") };
                nodes.add(&entry, Body::Directory).map(drop)
            });
        }
        // Blocks of files that consist of holes.
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
