//! A file tree in memory, assembled from packages; file contents are stored elsewhere. It resolves
//! symbolic links, so that a package's `/bin/sh` is placed in `/usr/bin` if `/bin` is a link.

use std::collections::BTreeMap;

use crate::deb::{Content, Entry, Kind, Meta};

/// Maximum links followed in one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// The error for a path that cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot place `{path}` in the tool root: {problem}")]
pub struct TreeError {
    /// The path.
    pub path: String,
    /// The reason.
    pub problem: &'static str,
}

/// The id of a node. Two names with the same id are hard links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(usize);

/// The type and content of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A directory with its sorted names.
    Directory(BTreeMap<String, NodeId>),
    /// A regular file.
    File(Content),
    /// A symbolic link.
    Symlink(String),
    /// A device node.
    Device {
        /// Whether it is a block device.
        block: bool,
        /// The major number of the device.
        major: u32,
        /// The minor number of the device.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A file tree.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    nodes: Vec<(Node, Meta)>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// The id of the root directory.
    pub(crate) const ROOT: NodeId = NodeId(0);

    /// Creates a tree with an empty root directory.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self { nodes: vec![(Node::Directory(BTreeMap::new()), Meta::root(0o755))] }
    }

    /// Returns a node and its metadata.
    #[must_use]
    pub(crate) fn node(&self, id: NodeId) -> (&Node, &Meta) {
        let (node, meta) = &self.nodes[id.0];
        (node, meta)
    }

    /// Returns the node at a path. Links in parent components are followed; a link in the last one
    /// only if `follow` is set.
    #[must_use]
    pub(crate) fn lookup(&self, path: &str, follow: bool) -> Option<NodeId> {
        let parts = |path: &str| -> Vec<String> {
            let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
            parts.rev().map(str::to_owned).collect()
        };
        // The components still to be resolved, in reverse order, and the path so far.
        let mut rest = parts(path);
        let mut way = vec![Self::ROOT];
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                way.truncate(way.len().saturating_sub(1).max(1));
                continue;
            }
            let Node::Directory(names) = &self.nodes[way.last()?.0].0 else { return None };
            let next = *names.get(&part)?;
            match &self.nodes[next.0].0 {
                Node::Symlink(target) if follow || !rest.is_empty() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    if target.starts_with('/') {
                        way.truncate(1);
                    }
                    rest.extend(parts(target));
                }
                _ => way.push(next),
            }
        }
        way.last().copied()
    }

    /// Returns the directory at a path, created with its parents if missing.
    ///
    /// # Errors
    /// Fails if something else than a directory is in the way.
    pub(crate) fn directory(&mut self, path: &str) -> Result<NodeId, TreeError> {
        let mut at = Self::ROOT;
        let mut walked = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            walked.push('/');
            walked.push_str(part);
            at = match self.lookup(&walked, true) {
                Some(id) if matches!(self.nodes[id.0].0, Node::Directory(_)) => id,
                Some(_) => return Err(blocked(path, "a file is where a directory is needed")),
                None if self.lookup(&walked, false).is_some() => {
                    return Err(blocked(path, "a link to nothing is where a directory is needed"));
                }
                None => self.insert(at, part, Node::Directory(BTreeMap::new()), Meta::root(0o755)),
            };
        }
        Ok(at)
    }

    fn insert(&mut self, parent: NodeId, name: &str, node: Node, meta: Meta) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.nodes.push((node, meta));
        if let Node::Directory(names) = &mut self.nodes[parent.0].0 {
            names.insert(name.to_owned(), id);
        }
        id
    }

    /// Places a node at a path, replacing an existing one. A directory keeps its entries, and only
    /// replaces a directory.
    ///
    /// # Errors
    /// Fails if the parent is not a directory, or if a directory is in the way.
    pub(crate) fn put(&mut self, path: &str, node: Node, meta: Meta) -> Result<NodeId, TreeError> {
        let path = path.trim_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            self.nodes[0].1 = meta;
            return Ok(Self::ROOT);
        }
        let parent = self.directory(parent)?;
        let Node::Directory(names) = &self.nodes[parent.0].0 else {
            return Err(blocked(path, "its parent is not a directory"));
        };
        let Some(old) = names.get(name).copied() else {
            return Ok(self.insert(parent, name, node, meta));
        };
        let is_directory = |node: &Node| matches!(node, Node::Directory(_));
        match (is_directory(&self.nodes[old.0].0), is_directory(&node)) {
            (true, true) => {
                self.nodes[old.0].1 = meta;
                Ok(old)
            }
            // A link may point to the wanted directory; dpkg keeps such links, which a merged /usr
            // needs.
            (false, true) => match self.lookup(path, true) {
                Some(target) if is_directory(&self.nodes[target.0].0) => Ok(target),
                _ => Err(blocked(path, "a file is where a directory is needed")),
            },
            // Like dpkg, never replaces a directory by a link.
            (true, false) => match node {
                Node::Symlink(_) => Ok(old),
                _ => Err(blocked(path, "a directory is where a file is needed")),
            },
            (false, false) => Ok(self.insert(parent, name, node, meta)),
        }
    }

    /// Adds a file of a package.
    ///
    /// # Errors
    /// Fails if the path cannot be placed (see [`Tree::put`]), or if a hard link's target is
    /// missing.
    pub(crate) fn add(&mut self, entry: &Entry) -> Result<NodeId, TreeError> {
        let node = match &entry.kind {
            Kind::Directory => Node::Directory(BTreeMap::new()),
            Kind::File(content) => Node::File(content.clone()),
            Kind::Symlink(target) => Node::Symlink(target.clone()),
            Kind::Device { block, major, minor } => {
                Node::Device { block: *block, major: *major, minor: *minor }
            }
            Kind::Fifo => Node::Fifo,
            Kind::HardLink(target) => return self.link(&entry.path, target),
        };
        self.put(&entry.path, node, entry.meta.clone())
    }

    /// Adds a hard link to an existing file.
    fn link(&mut self, path: &str, target: &str) -> Result<NodeId, TreeError> {
        let id = self
            .lookup(target, false)
            .filter(|id| !matches!(self.nodes[id.0].0, Node::Directory(_)))
            .ok_or_else(|| blocked(path, "it is a link to a file that is not there"))?;
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(parent)?;
        if let Node::Directory(names) = &mut self.nodes[parent.0].0 {
            names.insert(name.to_owned(), id);
        }
        Ok(id)
    }

    /// Writes a file owned by root.
    ///
    /// # Errors
    /// Fails if the parent is not a directory, or if a directory is in the way.
    pub(crate) fn write(
        &mut self,
        path: &str,
        mode: u16,
        bytes: impl Into<Vec<u8>>,
    ) -> Result<(), TreeError> {
        self.put(path, Node::File(Content::Bytes(bytes.into())), Meta::root(mode)).map(drop)
    }

    /// Creates a symbolic link owned by root.
    ///
    /// # Errors
    /// Fails if the parent is not a directory.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        self.put(path, Node::Symlink(target.to_owned()), Meta::root(0o777)).map(drop)
    }

    /// Moves a file to another path.
    ///
    /// # Errors
    /// Fails if the old path does not exist, or if the new one cannot be placed.
    pub(crate) fn rename(&mut self, from: &str, to: &str) -> Result<(), TreeError> {
        self.link(to, from)?;
        let (parent, name) = from.trim_matches('/').rsplit_once('/').unwrap_or(("", from));
        let parent = self.directory(parent)?;
        if let Node::Directory(names) = &mut self.nodes[parent.0].0 {
            names.remove(name);
        }
        Ok(())
    }

    /// Visits every node that has a name, once.
    pub(crate) fn for_each(&self, visit: &mut dyn FnMut(&Node, &Meta)) {
        let mut seen = vec![false; self.nodes.len()];
        let mut stack = vec![Self::ROOT];
        while let Some(id) = stack.pop() {
            if std::mem::replace(&mut seen[id.0], true) {
                continue;
            }
            let (node, meta) = self.node(id);
            visit(node, meta);
            if let Node::Directory(names) = node {
                stack.extend(names.values());
            }
        }
    }

    /// Returns the names in a directory; none if it does not exist.
    pub(crate) fn names(&self, path: &str) -> impl Iterator<Item = (&str, NodeId)> {
        let names = match self.lookup(path, true).map(|id| &self.nodes[id.0].0) {
            Some(Node::Directory(names)) => Some(names),
            _ => None,
        };
        names.into_iter().flatten().map(|(name, id)| (name.as_str(), *id))
    }
}

fn blocked(path: &str, problem: &'static str) -> TreeError {
    TreeError { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tree: &Tree, path: &str) -> Option<String> {
        match tree.node(tree.lookup(path, true)?).0 {
            Node::File(Content::Bytes(bytes)) => String::from_utf8(bytes.clone()).ok(),
            _ => None,
        }
    }

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: path.to_owned(), kind, meta: Meta::root(0o755) }
    }

    #[test]
    fn paths_follow_links() {
        let mut tree = Tree::new();
        tree.directory("usr/lib/deep").unwrap();
        tree.symlink("lib", "usr/lib").unwrap();
        tree.symlink("usr/lib/deep/up", "../other").unwrap();
        tree.symlink("abs", "/usr/lib/deep/up").unwrap();
        tree.directory("usr/lib/other").unwrap();
        tree.write("lib/x", 0o644, "1").unwrap();
        tree.write("lib/deep/up/y", 0o644, "2").unwrap();
        assert_eq!(text(&tree, "usr/lib/x").as_deref(), Some("1"));
        assert_eq!(text(&tree, "usr/lib/other/y").as_deref(), Some("2"));
        assert_eq!(text(&tree, "abs/y").as_deref(), Some("2"));
        assert_eq!(text(&tree, "abs/../x").as_deref(), Some("1"));
    }

    #[test]
    fn a_loop_of_links_ends() {
        let mut tree = Tree::new();
        tree.symlink("a", "b").unwrap();
        tree.symlink("b", "a").unwrap();
        assert_eq!(tree.lookup("a/x", true), None);
        assert!(tree.write("a/x", 0o644, "").is_err());
    }

    #[test]
    fn a_packaged_directory_keeps_the_link_of_a_merged_usr() {
        let mut tree = Tree::new();
        tree.directory("usr/bin").unwrap();
        tree.symlink("bin", "usr/bin").unwrap();
        tree.add(&entry("bin", Kind::Directory)).unwrap();
        tree.add(&entry("bin/sh", Kind::File(Content::Bytes(b"sh".to_vec())))).unwrap();
        tree.add(&entry("bin/rsh", Kind::HardLink("bin/sh".to_owned()))).unwrap();
        assert!(matches!(tree.node(tree.lookup("bin", false).unwrap()).0, Node::Symlink(_)));
        assert_eq!(tree.lookup("usr/bin/sh", true), tree.lookup("usr/bin/rsh", true));
    }

    #[test]
    fn files_and_directories_do_not_replace_each_other() {
        let mut tree = Tree::new();
        tree.directory("d").unwrap();
        tree.write("f", 0o644, "").unwrap();
        assert!(tree.write("d", 0o644, "").is_err());
        assert!(tree.write("f/x", 0o644, "").is_err());
        tree.symlink("d", "f").unwrap();
        assert!(matches!(tree.node(tree.lookup("d", false).unwrap()).0, Node::Directory(_)));
    }

    #[test]
    fn renaming() {
        let mut tree = Tree::new();
        tree.write("a/x", 0o644, "1").unwrap();
        tree.rename("a/x", "b/y").unwrap();
        assert_eq!(text(&tree, "b/y").as_deref(), Some("1"));
        assert_eq!(tree.lookup("a/x", false), None);
    }
}
