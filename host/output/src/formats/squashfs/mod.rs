//! Writes squashfs 4.0 in one pass from the tar stream.
//!
//! ```text
//!   superblock | data and fragment blocks, as files come | inodes | directories
//!   | fragment table | id table | attribute table
//! ```
//!
//! Files smaller than a block share fragment blocks; all blocks are compressed by xz on all cores.
//! Inodes and directories stay in memory until the data is written. Preserved are hard links,
//! devices, sparse files, and extended attributes in the namespaces of squashfs (user, trusted,
//! security, which includes file capabilities). The format cannot represent POSIX ACLs and times
//! before 1970 or after 2106, which is reported; times are whole seconds.

mod inode;
mod meta;
mod nodes;
mod xattr;

use std::io::Read;

use tar_stream::{Archive, Content, Entry, Kind};

use crate::{
    OutputError, Result, Target,
    atomic::OutFile,
    format::{Format, Origin, Writer, no_options},
    losses::Losses,
    pool::Ordered,
    source::is_zero,
};
use meta::{Meta, NO_TABLE};
use nodes::{Body, Fragment, NodeId, Nodes};

pub(crate) const FORMAT: Format = Format {
    name: "squashfs",
    suffix: "squash",
    about: "the tree as a squashfs filesystem",
    origin: Origin::Tree,
    container: None,
    max_bytes: u64::MAX,
    sequential: false,
    needs: no_options,
    write: Writer::Tree(write),
};

/// Block size of mksquashfs.
const BLOCK_BYTES: usize = 128 << 10;
const BLOCK_LOG: u16 = 17;

/// xz preset of mksquashfs.
const XZ_PRESET: u32 = 6;

/// Kernels have a dictionary of one block and refuse larger ones.
const XZ_DICTIONARY_BYTES: u32 = 128 << 10;

/// Maximum number of blocks of all files together, and of fragments: 2 TiB of files, 64 MiB of
/// block lists.
const MAX_BLOCKS: usize = 1 << 24;

/// Size flag: the block is stored uncompressed.
const STORED: u32 = 1 << 24;

/// The image size is a multiple of this, so that it fits a block device.
const PAD_BYTES: u64 = 4096;

const MAGIC: u32 = 0x7371_7368;
const COMPRESSION_XZ: u16 = 4;
const FLAG_NO_XATTRS: u16 = 0x200;
const SUPERBLOCK_BYTES: usize = 96;

pub(crate) fn write(tar: &mut dyn Read, out: &mut OutFile, target: &Target) -> Result<()> {
    out.append(&[0; SUPERBLOCK_BYTES])?;
    let mut archive = Archive::new(tar);
    let mut data = Data::new(out, target.compress);
    let mut nodes = Nodes::default();
    while let Some(entry) = archive.next_entry()? {
        note_losses(&entry, &mut data.out.losses);
        let shown = entry.path.join(&b'/');
        let refuse = |reason: &str| archive.bad(&shown, reason);
        let body = match entry.kind {
            Kind::HardLink => {
                nodes.link(&entry).map_err(refuse)?;
                continue;
            }
            Kind::File => Body::default(),
            Kind::Directory => Body::Directory,
            Kind::Symlink => Body::Symlink(entry.link.clone()),
            Kind::CharDevice => Body::Device { block: false, number: entry.device },
            Kind::BlockDevice => Body::Device { block: true, number: entry.device },
            Kind::Fifo => Body::Fifo,
        };
        let is_file = entry.kind == Kind::File;
        let node = nodes.add(&entry, body).map_err(refuse)?;
        if is_file {
            data.file(&mut archive, &entry, node, &mut nodes)?;
        }
    }
    let fragments = data.finish(&mut nodes)?;
    finish(&mut nodes, &fragments, out, target)
}

/// Records what the format cannot represent of a member.
fn note_losses(entry: &Entry, losses: &mut Losses) {
    let has = |wanted: fn(&[u8]) -> bool| entry.xattrs.iter().any(|(name, _)| wanted(name));
    if has(|name| name.starts_with(b"system.posix_acl_")) {
        losses.add("POSIX ACLs, and files have their plain modes there", &entry.path);
    }
    if has(|name| !xattr::is_known(name) && !name.starts_with(b"system.posix_acl_")) {
        losses.add("extended attributes outside of user, trusted and security", &entry.path);
    }
    if u32::try_from(entry.mtime.0).is_err() {
        losses
            .add("times before 1970 and after 2106, and files have the nearest there", &entry.path);
    }
}

/// Compresses a block in the only form that kernels read: one stream with CRC-32. `None` if that
/// fails; the block is then stored uncompressed.
fn xz(data: &[u8]) -> Option<Vec<u8>> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let mut options = LzmaOptions::new_preset(XZ_PRESET).ok()?;
    options.dict_size(XZ_DICTIONARY_BYTES);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32).ok()?;
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    std::io::Write::write_all(&mut encoder, data).ok()?;
    encoder.finish().ok()
}

/// A data block in the thread pool.
struct Block {
    owner: Owner,
    data: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Owner {
    /// A block of a file, by index.
    File(NodeId, usize),
    Fragment,
}

/// A compressed block.
struct Packed {
    owner: Owner,
    data: Vec<u8>,
    stored: bool,
}

/// The part of the image with file data.
struct Data<'a> {
    out: &'a mut OutFile,
    pool: Ordered<Block, Packed>,
    /// Small files collected for the next fragment block.
    fragment: Vec<u8>,
    /// Number of fragment blocks passed to the pool.
    fragments_begun: u32,
    /// Offset and size field of the fragment blocks written so far.
    fragments: Vec<(u64, u32)>,
    blocks: usize,
}

impl<'a> Data<'a> {
    fn new(out: &'a mut OutFile, compress: bool) -> Self {
        let pool = Ordered::new(move |block: Block| {
            let packed = compress.then(|| xz(&block.data)).flatten();
            match packed.filter(|packed| packed.len() < block.data.len()) {
                Some(data) => Packed { owner: block.owner, data, stored: false },
                None => Packed { owner: block.owner, data: block.data, stored: true },
            }
        });
        let (fragment, fragments) = (Vec::new(), Vec::new());
        Self { out, pool, fragment, fragments_begun: 0, fragments, blocks: 0 }
    }

    fn file<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        entry: &Entry,
        node: NodeId,
        nodes: &mut Nodes,
    ) -> Result<()> {
        let mut content = Content::new(entry);
        let small = usize::try_from(entry.size).is_ok_and(|size| size < BLOCK_BYTES);
        if small {
            let data = content.read(archive, BLOCK_BYTES)?;
            // The file may start a new fragment block.
            let shown = entry.path.join(&b'/');
            if self.fragment.is_empty() || self.fragment.len() + data.len() > BLOCK_BYTES {
                self.take_blocks(1).map_err(|reason| archive.bad(&shown, reason))?;
            }
            return self.small_file(&data, node, nodes);
        }
        let blocks = entry.size.div_ceil(BLOCK_BYTES as u64);
        let blocks = usize::try_from(blocks).unwrap_or(usize::MAX);
        let shown = entry.path.join(&b'/');
        let refuse = |reason| archive.bad(&shown, reason);
        self.take_blocks(blocks).map_err(refuse)?;
        nodes.start_file(node, entry.size, blocks).map_err(refuse)?;
        for index in 0..blocks {
            if content.is_hole(BLOCK_BYTES as u64) {
                content.skip(BLOCK_BYTES as u64);
                continue;
            }
            let data = content.read(archive, BLOCK_BYTES)?;
            if !is_zero(&data) {
                self.submit(Block { owner: Owner::File(node, index), data }, nodes)?;
            }
        }
        Ok(())
    }

    /// Counts file and fragment blocks against the limit.
    fn take_blocks(&mut self, count: usize) -> Result<(), &'static str> {
        self.blocks = self.blocks.saturating_add(count);
        if self.blocks > MAX_BLOCKS {
            return Err("more file data than squashfs is written with");
        }
        Ok(())
    }

    fn small_file(&mut self, data: &[u8], node: NodeId, nodes: &mut Nodes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if self.fragment.len() + data.len() > BLOCK_BYTES {
            self.end_fragment(nodes)?;
        }
        let file = nodes.file_mut(node);
        file.size = data.len() as u64;
        let offset = u32::try_from(self.fragment.len()).unwrap_or_default();
        file.fragment = Some(Fragment { index: self.fragments_begun, offset });
        self.fragment.extend_from_slice(data);
        Ok(())
    }

    fn end_fragment(&mut self, nodes: &mut Nodes) -> Result<()> {
        if self.fragment.is_empty() {
            return Ok(());
        }
        self.fragments_begun += 1;
        let data = std::mem::take(&mut self.fragment);
        self.submit(Block { owner: Owner::Fragment, data }, nodes)
    }

    fn submit(&mut self, block: Block, nodes: &mut Nodes) -> Result<()> {
        match self.pool.push(block)? {
            Some(packed) => self.store(&packed, nodes),
            None => Ok(()),
        }
    }

    fn store(&mut self, packed: &Packed, nodes: &mut Nodes) -> Result<()> {
        let at = self.out.position();
        self.out.append(&packed.data)?;
        let size = u32::try_from(packed.data.len()).unwrap_or_default();
        let field = if packed.stored { size | STORED } else { size };
        match packed.owner {
            Owner::File(node, index) => nodes.file_mut(node).block(index, at, field),
            Owner::Fragment => self.fragments.push((at, field)),
        }
        Ok(())
    }

    fn finish(mut self, nodes: &mut Nodes) -> Result<Vec<(u64, u32)>> {
        self.end_fragment(nodes)?;
        while let Some(packed) = self.pool.pop()? {
            self.store(&packed, nodes)?;
        }
        Ok(self.fragments)
    }
}

/// Writes all tables, and finally the superblock.
fn finish(
    nodes: &mut Nodes,
    fragments: &[(u64, u32)],
    out: &mut OutFile,
    target: &Target,
) -> Result<()> {
    let too_many = |_| OutputError::BadTree {
        entry: 0,
        path: String::new(),
        reason: "more owners or attributes than squashfs can hold".to_owned(),
    };
    let mut tables = inode::Tables::new(target.compress);
    let root = tables.write(nodes).map_err(too_many)?;
    let inodes_at = out.position();
    out.append(&tables.inodes.finish())?;
    let directories_at = out.position();
    out.append(&tables.directories.finish())?;

    let mut list = Meta::new(target.compress);
    for (at, size) in fragments {
        list.append(&at.to_le_bytes());
        list.append(&size.to_le_bytes());
        list.append(&[0; 4]);
    }
    let fragments_at = append_indexed(out, list, &[])?;
    let mut ids = Meta::new(target.compress);
    tables.ids.iter().for_each(|id| ids.append(&id.to_le_bytes()));
    let ids_at = append_indexed(out, ids, &[])?;
    let xattrs_at = match nodes.xattrs().finish(target.compress) {
        None => NO_TABLE,
        Some((pairs, sets, count)) => {
            let pairs_at = out.position();
            out.append(&pairs)?;
            let head = [pairs_at.to_le_bytes(), u64::from(count).to_le_bytes()].concat();
            append_indexed(out, sets, &head)?
        }
    };
    let used = out.position();
    let padded = used.next_multiple_of(PAD_BYTES);
    out.skip(padded - used);

    let mut superblock = Vec::new();
    let mut u32s = |values: [u32; 5]| {
        values.iter().for_each(|v| superblock.extend_from_slice(&v.to_le_bytes()));
    };
    let time = u32::try_from(target.identity.unix_time).unwrap_or(u32::MAX);
    let fragment_count = u32::try_from(fragments.len()).unwrap_or(u32::MAX);
    let block_bytes = u32::try_from(BLOCK_BYTES).unwrap_or_default();
    u32s([MAGIC, nodes.count(), time, block_bytes, fragment_count]);
    let flags = if xattrs_at == NO_TABLE { FLAG_NO_XATTRS } else { 0 };
    let id_count = u16::try_from(tables.ids.len()).map_err(too_many)?;
    // The version is 4.0.
    for field in [COMPRESSION_XZ, BLOCK_LOG, flags, id_count, 4, 0] {
        superblock.extend_from_slice(&field.to_le_bytes());
    }
    let places = [root, used, ids_at, xattrs_at, inodes_at, directories_at, fragments_at, NO_TABLE];
    for place in places {
        superblock.extend_from_slice(&place.to_le_bytes());
    }
    out.patch(0, &superblock)
}

/// Appends a table, then `head` and the offsets of its blocks. Returns the offset of the latter.
fn append_indexed(out: &mut OutFile, table: Meta, head: &[u8]) -> Result<u64> {
    let start = out.position();
    let (bytes, blocks) = table.finish_with_places();
    out.append(&bytes)?;
    let at = out.position();
    out.append(head)?;
    for block in blocks {
        out.append(&(start + block).to_le_bytes())?;
    }
    Ok(at)
}
