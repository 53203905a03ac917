//! The content of an output: all file attributes except times.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    error::Error,
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use anyhow::{Context as _, Result, bail, ensure};
use ext4_view::{Ext4, Ext4Read};
use sha2::{Digest as _, Sha256};

/// A file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    mode: u32,
    owner: (u64, u64),
    kind: Kind,
}

/// The type of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Directory,
    File(String),
    Link(String),
    /// A hard link in an archive, with the first name of the file.
    Same(String),
    Special(String),
}

/// Files by their paths.
pub(crate) type Tree = BTreeMap<String, Entry>;

/// Returns the digest of bytes, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Fails with the differences between two trees, at most 20. The late file has the expected content
/// `late`, since the number in the expected tree is that of the reference build.
pub(crate) fn compare(found: &Tree, expected: &Tree, late: &[u8]) -> Result<()> {
    let mut expected = expected.clone();
    let entry = expected.get_mut("etc/late").context("the expected tree has no etc/late")?;
    entry.kind = Kind::File(digest(late));
    let mut complaints = Vec::new();
    for (path, entry) in &expected {
        match found.get(path) {
            None => complaints.push(format!("{path} is missing")),
            Some(other) if other != entry => {
                complaints.push(format!("{path} is {other:?}, not {entry:?}"));
            }
            Some(_) => {}
        }
    }
    let more = found.keys().filter(|path| !expected.contains_key(*path));
    complaints.extend(more.map(|path| format!("{path} is too many")));
    complaints.truncate(20);
    ensure!(
        complaints.is_empty(),
        "another tree than that of an undisturbed build: {}",
        complaints.join("; ")
    );
    Ok(())
}

/// Reads the tree of an archive.
pub(crate) fn of_archive(path: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut archive = tar::Archive::new(File::open(path)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let link = entry.link_name_bytes();
        let link = link.map(|link| String::from_utf8_lossy(&link).into_owned()).unwrap_or_default();
        let header = entry.header();
        let (mode, owner) = (header.mode()?, (header.uid()?, header.gid()?));
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Link(link),
            tar::EntryType::Link => Kind::Same(link),
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                Kind::File(digest(&content))
            }
            other => Kind::Special(format!("{other:?}")),
        };
        let name = name.trim_start_matches("./").trim_end_matches('/').to_owned();
        tree.insert(name, Entry { mode: mode & 0o7777, owner, kind });
    }
    ensure!(!tree.is_empty(), "{} holds nothing", path.display());
    Ok(tree)
}

/// The alignment of partitions.
const ALIGNMENT_BYTES: u64 = 1 << 20;
/// The offset of the magic number in ext4's superblock, and its value.
const MAGIC_AT: u64 = 1024 + 56;
const MAGIC: [u8; 2] = [0x53, 0xef];

/// Finds the offset of the ext4 filesystem on a raw disk.
fn filesystem(path: &Path) -> Result<u64> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let places = (0..bytes / ALIGNMENT_BYTES).map(|number| number * ALIGNMENT_BYTES);
    for place in places {
        let mut magic = [0; 2];
        file.read_exact_at(&mut magic, place + MAGIC_AT)?;
        if magic == MAGIC {
            return Ok(place);
        }
    }
    bail!("{} holds no ext4 filesystem", path.display())
}

/// A reader of a raw disk from the start of its filesystem.
struct Partition {
    file: File,
    begin: u64,
}

impl Ext4Read for Partition {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn Error + Send + Sync + 'static>> {
        Ok(self.file.read_exact_at(dst, self.begin + start_byte)?)
    }
}

/// Reads the tree of the ext4 filesystem on a raw disk. Fails if e2fsck finds it inconsistent.
pub(crate) fn of_disk(path: &Path) -> Result<Tree> {
    let begin = filesystem(path)?;
    check_filesystem(path, begin)?;
    let partition = Partition { file: File::open(path)?, begin };
    let filesystem = Ext4::load(Box::new(partition))
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    let tree = Rc::new(RefCell::new(Tree::new()));
    let mut folders = vec![ext4_view::PathBuf::new("/")];
    while let Some(folder) = folders.pop() {
        let entries = filesystem.read_dir(&folder).map_err(|e| anyhow::anyhow!("{e}"))?;
        for entry in entries {
            let entry = entry.map_err(|e| anyhow::anyhow!("{e}"))?;
            let name = entry.file_name();
            if matches!(name.as_ref(), b"." | b"..") {
                continue;
            }
            let path = entry.path();
            let described = describe(&filesystem, &path).map_err(|e| anyhow::anyhow!("{e}"))?;
            if described.kind == Kind::Directory {
                folders.push(path.clone());
            }
            let text = path.display().to_string();
            tree.borrow_mut().insert(text.trim_start_matches('/').to_owned(), described);
        }
    }
    Ok(tree.take())
}

fn describe(filesystem: &Ext4, path: &ext4_view::PathBuf) -> Result<Entry, ext4_view::Ext4Error> {
    let metadata = filesystem.symlink_metadata(path)?;
    let kind = if metadata.is_dir() {
        Kind::Directory
    } else if metadata.is_symlink() {
        Kind::Link(filesystem.read_link(path)?.display().to_string())
    } else if metadata.file_type().is_regular_file() {
        Kind::File(digest(&filesystem.read(path)?))
    } else {
        Kind::Special(format!("{:?}", metadata.file_type()))
    };
    let owner = (metadata.uid().into(), metadata.gid().into());
    Ok(Entry { mode: u32::from(metadata.mode()) & 0o7777, owner, kind })
}

/// Reads one file of the ext4 filesystem on a raw disk.
pub(crate) fn file_on_disk(disk: &Path, path: &str) -> Result<Vec<u8>> {
    let partition = Partition { file: File::open(disk)?, begin: filesystem(disk)? };
    let filesystem = Ext4::load(Box::new(partition)).map_err(|e| anyhow::anyhow!("{e}"))?;
    filesystem.read(path).map_err(|e| anyhow::anyhow!("{path} on {}: {e}", disk.display()))
}

/// Checks with e2fsck that a filesystem is clean, without changing it.
pub(crate) fn check_filesystem(disk: &Path, begin: u64) -> Result<()> {
    let device = format!("{}?offset={begin}", disk.display());
    let checked = Command::new("/usr/sbin/e2fsck").args(["-f", "-n", &device]).output()?;
    let text = String::from_utf8_lossy(&checked.stdout);
    ensure!(checked.status.success(), "e2fsck finds {} damaged: {text}", disk.display());
    Ok(())
}

/// Like [`of_disk`], for an image in another format; a raw copy is created in `folder`.
pub(crate) fn of_image(image: &Path, folder: &Path) -> Result<Tree> {
    let raw: PathBuf = folder.join("flat.raw");
    let made = Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([image, &raw])
        .output()
        .context("qemu-img")?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "qemu-img cannot read {}: {said}", image.display());
    let tree = of_disk(&raw);
    std::fs::remove_file(&raw)?;
    tree
}
