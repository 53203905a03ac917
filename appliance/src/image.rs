//! Writes a tree as an ext4 image, directly from the contents of packages: owners, modes, setuid
//! bits, links, device nodes and extended attributes are as in the packages, which an unprivileged
//! user could not create in a directory.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
};

use mkext4::{FsBuilder, InodeHandle, Options, SpecialKind, sink::FileSink};

use crate::{
    deb::{Content, Meta},
    tree::{Node, NodeId, Tree},
};

/// The block size of mkext4.
const BLOCK_BYTES: u64 = 4096;
/// One inode per this many bytes: mke2fs's ratio, which mkext4 uses too. So the free space also
/// provides inodes for the configuration.
const BYTES_PER_INODE: u64 = 16_384;
/// Journal size in blocks. Only the first boot uses the journal, to write a few thousand small
/// files; afterwards the image is read-only.
const JOURNAL_BLOCKS: u32 = 1024;

/// An error while writing an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The filesystem cannot be laid out for the tree.
    #[error("cannot lay out the file system of the tool root")]
    Layout(#[source] mkext4::Error),
    /// The file cannot be written.
    #[error("cannot write the image `{}`", path.display())]
    Write {
        /// The path of the image.
        path: PathBuf,
        /// The cause.
        #[source]
        source: mkext4::Error,
    },
}

/// The properties of an image.
#[derive(Debug, Clone)]
pub(crate) struct ImageOptions {
    /// The volume label, at most 16 bytes.
    pub label: String,
    /// The UUID, which also seeds the directory hashes: the same tree with the same UUID gives the
    /// same image, byte for byte.
    pub uuid: [u8; 16],
    /// Free space in bytes. It costs nothing, as the file is sparse.
    pub free_bytes: u64,
    /// The time of the filesystem itself, in seconds since the epoch.
    pub time: u32,
}

/// The result of writing an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImageSummary {
    /// The size of the filesystem in bytes.
    pub size_bytes: u64,
    /// Bytes of file contents.
    pub data_bytes: u64,
    /// Number of files, directories and other inodes.
    pub inodes: usize,
}

/// Writes the tree as an ext4 image.
///
/// # Errors
/// Fails if the tree does not fit, or if the file cannot be written.
pub(crate) fn write(
    tree: &Tree,
    spools: &[File],
    path: &Path,
    options: &ImageOptions,
) -> Result<ImageSummary, ImageError> {
    let mut plan = Plan { declared: HashMap::new(), files: Vec::new() };
    let size_bytes = size_for(tree, options.free_bytes);
    let mut layout = Options::new(size_bytes, options.uuid, i64::from(options.time));
    layout.label = Some(options.label.clone());
    // All files belong to root, so no blocks need to be reserved for it.
    layout.reserved_percent = 0;
    layout.journal_blocks = Some(JOURNAL_BLOCKS);
    let mut builder = FsBuilder::new(layout).map_err(ImageError::Layout)?;
    let (_, meta) = tree.node(Tree::ROOT);
    builder.set_meta(mkext4::ROOT, meta_of(meta)).map_err(ImageError::Layout)?;
    plan.directory(tree, Tree::ROOT, &mut builder, mkext4::ROOT).map_err(ImageError::Layout)?;
    let layout = builder.seal().map_err(ImageError::Layout)?;
    let failed = |source| ImageError::Write { path: path.to_owned(), source };
    let sink = FileSink::create(path, size_bytes).map_err(|error| failed(error.into()))?;
    let mut writer = layout.writer(sink).map_err(failed)?;
    for (handle, content) in &plan.files {
        let mut reader = content.open(spools).map_err(|error| failed(error.into()))?;
        writer.fill(*handle, &mut reader).map_err(failed)?;
    }
    let inodes = plan.declared.len() + 1;
    let summary = writer.finish().map_err(failed)?;
    Ok(ImageSummary { size_bytes: summary.image_len, data_bytes: summary.data_bytes, inodes })
}

/// Returns a filesystem size for the tree and the free space, with the metadata of both.
fn size_for(tree: &Tree, free_bytes: u64) -> u64 {
    let (mut bytes, mut inodes) = (0, 0);
    tree.for_each(&mut |node, _| {
        inodes += 1;
        bytes += match node {
            Node::File(content) => content.len().next_multiple_of(BLOCK_BYTES),
            Node::Directory(names) => (names.len() as u64 * 64).next_multiple_of(BLOCK_BYTES),
            _ => 0,
        };
    });
    // One 32nd for inode tables, bitmaps and extents; and space for every inode.
    let needed = (bytes + free_bytes + (bytes + free_bytes) / 32).max(inodes * BYTES_PER_INODE);
    (needed + (16 << 20)).next_multiple_of(1 << 20)
}

/// The declared inodes, and the contents to fill in, in the same order.
struct Plan<'a> {
    declared: HashMap<NodeId, InodeHandle>,
    files: Vec<(InodeHandle, &'a Content)>,
}

impl<'a> Plan<'a> {
    /// Declares everything in a directory. The recursion is as deep as the deepest path of a
    /// package.
    fn directory(
        &mut self,
        tree: &'a Tree,
        id: NodeId,
        builder: &mut FsBuilder,
        handle: InodeHandle,
    ) -> mkext4::Result<()> {
        let (Node::Directory(names), _) = tree.node(id) else { return Ok(()) };
        for (name, child) in names {
            if let Some(known) = self.declared.get(child) {
                builder.hardlink(handle, name, *known)?;
                continue;
            }
            let (node, meta) = tree.node(*child);
            let declared = declare(builder, handle, name, node, meta)?;
            for (attribute, value) in &meta.xattrs {
                builder.set_xattr(declared, attribute, value)?;
            }
            self.declared.insert(*child, declared);
            match node {
                Node::Directory(_) => self.directory(tree, *child, builder, declared)?,
                // mkext4 does not accept content for an empty file.
                Node::File(content) if !content.is_empty() => self.files.push((declared, content)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn declare(
    builder: &mut FsBuilder,
    parent: InodeHandle,
    name: &str,
    node: &Node,
    meta: &Meta,
) -> mkext4::Result<InodeHandle> {
    let meta = meta_of(meta);
    match node {
        Node::Directory(_) => builder.mkdir(parent, name, meta),
        Node::File(content) => builder.file(parent, name, meta, content.len()),
        Node::Symlink(target) => builder.symlink(parent, name, target, meta),
        Node::Fifo => builder.mknod(parent, name, meta, SpecialKind::Fifo),
        Node::Device { block, major, minor } => {
            let (major, minor) = (*major, *minor);
            let kind = if *block {
                SpecialKind::Block { major, minor }
            } else {
                SpecialKind::Char { major, minor }
            };
            builder.mknod(parent, name, meta, kind)
        }
    }
}

fn meta_of(meta: &Meta) -> mkext4::Meta {
    mkext4::Meta::new(meta.mode, meta.uid, meta.gid, (meta.mtime, 0))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::deb::{Entry, Kind};

    fn options() -> ImageOptions {
        ImageOptions {
            label: "test".to_owned(),
            uuid: [7; 16],
            free_bytes: 32 << 20,
            time: 1_700_000_000,
        }
    }

    fn sample() -> (Tree, tempfile::NamedTempFile) {
        let spool = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(spool.path(), "0123456789").unwrap();
        let mut tree = Tree::new();
        let content = Content::Spool { spool: 0, offset: 2, length: 5 };
        let meta = Meta {
            mode: 0o4755,
            uid: 1,
            gid: 42,
            mtime: 5,
            xattrs: vec![("security.capability".to_owned(), vec![1, 2, 3, 4])],
        };
        tree.add(&Entry { path: "usr/bin/su".to_owned(), kind: Kind::File(content), meta })
            .unwrap();
        let link = Kind::HardLink("usr/bin/su".to_owned());
        tree.add(&Entry { path: "usr/bin/us".to_owned(), kind: link, meta: Meta::root(0) })
            .unwrap();
        tree.symlink("bin", "usr/bin").unwrap();
        let null = Kind::Device { block: false, major: 1, minor: 3 };
        tree.add(&Entry { path: "dev/null".to_owned(), kind: null, meta: Meta::root(0o666) })
            .unwrap();
        tree.write("etc/empty", 0o600, "").unwrap();
        (tree, spool)
    }

    #[test]
    fn the_image_holds_the_tree() {
        let (tree, spool) = sample();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let spools = [File::open(spool.path()).unwrap()];
        let summary = write(&tree, &spools, &path, &options()).unwrap();
        assert!(summary.size_bytes > 32 << 20);
        let fs = mkext4::reader::Fs::open(File::open(&path).unwrap()).unwrap();
        let su = fs.resolve("/usr/bin/su").unwrap();
        assert_eq!(fs.read_file(su).unwrap(), b"23456");
        assert_eq!(fs.resolve("/usr/bin/us").unwrap(), su);
        let inode = fs.inode(su).unwrap();
        assert_eq!((inode.mode & 0o7777, inode.uid, inode.gid), (0o4755, 1, 42));
        assert_eq!(fs.xattrs(su).unwrap().len(), 1);
        assert!(fs.verify().unwrap().is_empty());
    }

    #[test]
    fn the_same_tree_is_the_same_image() {
        let (tree, spool) = sample();
        let dir = tempfile::tempdir().unwrap();
        let digest = |name: &str| {
            let path = dir.path().join(name);
            write(&tree, &[File::open(spool.path()).unwrap()], &path, &options()).unwrap();
            crate::fetch::digest_of(&path).unwrap()
        };
        assert_eq!(digest("a"), digest("b"));
    }

    #[test]
    fn the_checker_of_e2fsprogs_is_content() {
        let (tree, spool) = sample();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        write(&tree, &[File::open(spool.path()).unwrap()], &path, &options()).unwrap();
        match Command::new("e2fsck").arg("-fn").arg(&path).output() {
            Ok(output) => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            }
            Err(error) => println!("skipped: e2fsck cannot be run ({error})"),
        }
    }
}
