//! Writes ISO9660 images with Rock Ridge: long names and permissions.
//!
//! ```text
//! sector 0   16   17    18           19           20
//!        ─── PVD  end   path table L  path table M  directories … continuations … files …
//! ```
//!
//! Data that does not fit in a directory record (a very long name, Rock Ridge's identification) is
//! in the continuation sectors, to which a CE field points. Numbers are stored in both byte orders.

use std::collections::BTreeSet;

use super::{LABEL, SeedError, SeedFile, tree::Directory};

const SECTOR: usize = 2048;
/// First sector after the volume descriptors and the two path tables. Each path table has one
/// sector, enough for some hundred directories.
const DATA_SECTOR: u32 = 20;
const PATH_TABLE_L: u32 = 18;
const PATH_TABLE_M: u32 = 19;
/// Maximum length of a directory record in bytes; must be even.
const RECORD_MAX: usize = 254;
/// Maximum length of a name part in one NM field, in bytes.
const NAME_PART: usize = 250;
/// 2020-01-01 in UTC, as the time of all files, so that the same files give the same image.
const DATE: [u8; 7] = [120, 1, 1, 0, 0, 0, 0];
/// The same time in the format of the volume descriptor.
const LONG_DATE: &[u8; 17] = b"2020010100000000\0";
const DIRECTORY_MODE: u32 = 0o040_755;
const FILE_TYPE: u32 = 0o100_000;

/// Writes the files to an ISO9660 image.
///
/// # Errors
/// Fails if the files do not fit.
pub fn iso(files: &[SeedFile]) -> Result<Vec<u8>, SeedError> {
    let root = Directory::of(files)?;
    let mut nodes = vec![Node { iso: "\0".into(), parent: 0, entries: Vec::new() }];
    number(&root, &mut nodes);
    // Path tables are ordered by depth, as is a breadth-first walk.
    let mut image =
        Image { nodes, directories: Vec::new(), files: Vec::new(), continuations: Vec::new() };
    image.place()?;
    Ok(image.write())
}

/// A directory with its entries.
struct Node<'a> {
    iso: String,
    parent: usize,
    entries: Vec<Entry<'a>>,
}

/// A directory entry; entries are sorted by ISO9660 name.
struct Entry<'a> {
    name: &'a str,
    iso: String,
    kind: EntryKind<'a>,
}

#[derive(Clone, Copy)]
enum EntryKind<'a> {
    Directory(usize),
    File(&'a SeedFile),
}

/// Numbers the directories in breadth-first order.
fn number<'a>(root: &Directory<'a>, nodes: &mut Vec<Node<'a>>) {
    let mut queue: std::collections::VecDeque<(usize, &Directory<'a>)> = [(0, root)].into();
    while let Some((at, directory)) = queue.pop_front() {
        let mut taken = BTreeSet::new();
        let mut entries = Vec::new();
        for (name, inner) in &directory.directories {
            let iso = short_name(name, "", &mut taken);
            nodes.push(Node { iso: iso.clone(), parent: at, entries: Vec::new() });
            queue.push_back((nodes.len() - 1, inner));
            entries.push(Entry { name, iso, kind: EntryKind::Directory(nodes.len() - 1) });
        }
        for (name, file) in &directory.files {
            let iso = short_name(name, ";1", &mut taken);
            entries.push(Entry { name, iso, kind: EntryKind::File(file) });
        }
        entries.sort_by(|one, other| one.iso.cmp(&other.iso));
        nodes[at].entries = entries;
    }
}

/// A unique name of at most 8 characters plus an extension of 3.
fn short_name(name: &str, version: &str, taken: &mut BTreeSet<String>) -> String {
    let plain = |text: &str, most: usize| -> String {
        let letters = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        letters.take(most).collect()
    };
    let (stem, extension) = match name.rsplit_once('.') {
        Some((stem, extension)) if !version.is_empty() && !stem.is_empty() => {
            (stem, plain(extension, 3))
        }
        _ => (name, String::new()),
    };
    let dot = if version.is_empty() || extension.is_empty() { "" } else { "." };
    let stem = plain(stem, 8);
    for count in 0.. {
        let number = if count == 0 { String::new() } else { count.to_string() };
        let kept: String = stem.chars().take(8 - number.len().min(8)).collect();
        let made = format!("{kept}{number}{dot}{extension}{version}");
        if taken.insert(made.clone()) {
            return made;
        }
    }
    stem
}

/// The number in both byte orders.
fn both32(number: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn both16(number: u16) -> [u8; 4] {
    let (le, be) = (number.to_le_bytes(), number.to_be_bytes());
    [le[0], le[1], be[0], be[1]]
}

fn sectors(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(SECTOR)).unwrap_or(u32::MAX)
}

/// A System Use Sharing Protocol field.
fn field(signature: &[u8; 2], data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(4 + data.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![signature[0], signature[1], length, 1];
    bytes.extend_from_slice(data);
    bytes
}

/// The PX field: mode, links, owner and group 0, and serial number 0.
fn px(mode: u32, links: u32) -> Vec<u8> {
    let data: Vec<u8> = [mode, links, 0, 0].into_iter().flat_map(both32).collect();
    field(b"PX", &data)
}

/// The name, in as many NM fields as needed.
fn nm(name: &str) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = name.as_bytes().chunks(NAME_PART).collect();
    let last = parts.len().saturating_sub(1);
    let part = |(index, part): (usize, &&[u8])| {
        let goes_on = u8::from(index < last);
        field(b"NM", &[&[goes_on], *part].concat())
    };
    parts.iter().enumerate().map(part).collect()
}

/// The ER field, which identifies Rock Ridge.
fn er() -> Vec<u8> {
    let id = b"RRIP_1991A";
    let about =
        b"THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS";
    let source = b"PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.";
    let lengths = [id.len(), about.len(), source.len(), 1].map(|n| u8::try_from(n).unwrap_or(0));
    field(b"ER", &[&lengths[..], id, about, source].concat())
}

struct Image<'a> {
    nodes: Vec<Node<'a>>,
    /// First sector and length in bytes of each directory.
    directories: Vec<(u32, usize)>,
    /// First sector of each file, in the order of the directories' entries.
    files: Vec<(u32, &'a SeedFile)>,
    /// Bytes of the continuation sectors.
    continuations: Vec<u8>,
}

impl<'a> Image<'a> {
    fn links(&self, node: usize) -> u32 {
        let inner = self.nodes[node].entries.iter();
        let count = inner.filter(|entry| matches!(entry.kind, EntryKind::Directory(_))).count();
        u32::try_from(count + 2).unwrap_or(u32::MAX)
    }

    /// Assigns sectors to everything. Record lengths do not depend on the sectors, so a first pass
    /// builds the directories only to measure them.
    fn place(&mut self) -> Result<(), SeedError> {
        let table: usize =
            self.nodes.iter().map(|node| 8 + node.iso.len().next_multiple_of(2)).sum();
        if table > SECTOR {
            return Err(SeedError::TooLarge("the path table of an ISO9660 image is full"));
        }
        self.directories = vec![(0, 0); self.nodes.len()];
        let files: Vec<&'a SeedFile> = self
            .nodes
            .iter()
            .flat_map(|node| &node.entries)
            .filter_map(|entry| match entry.kind {
                EntryKind::File(file) => Some(file),
                EntryKind::Directory(_) => None,
            })
            .collect();
        self.files = files.iter().map(|file| (0, *file)).collect();
        let mut sector = DATA_SECTOR;
        let made = self.make_directories(0);
        for (index, bytes) in made.iter().enumerate() {
            self.directories[index] = (sector, bytes.len());
            sector += sectors(bytes.len());
        }
        sector += sectors(self.continuations.len());
        for (index, file) in files.iter().enumerate() {
            if u32::try_from(file.bytes.len()).is_err() {
                return Err(SeedError::TooLarge("a file of an ISO9660 image has less than 4 GiB"));
            }
            self.files[index].0 = sector;
            sector = sector
                .checked_add(sectors(file.bytes.len()))
                .ok_or(SeedError::TooLarge("an ISO9660 image has less than 8 TiB"))?;
        }
        Ok(())
    }

    /// Builds the sectors of all directories, given the first continuation sector.
    fn make_directories(&mut self, continuation: u32) -> Vec<Vec<u8>> {
        self.continuations.clear();
        let mut file = 0;
        let mut all = Vec::new();
        for index in 0..self.nodes.len() {
            let parent = self.nodes[index].parent;
            let mut fields = vec![px(DIRECTORY_MODE, self.links(index))];
            if index == 0 {
                fields.insert(0, field(b"SP", &[0xbe, 0xef, 0]));
                fields.push(er());
            }
            let mut bytes = Vec::new();
            let record = self.record(b"\0", self.directories[index], true, fields, continuation);
            put(&mut bytes, record);
            let fields = vec![px(DIRECTORY_MODE, self.links(parent))];
            let record = self.record(b"\x01", self.directories[parent], true, fields, continuation);
            put(&mut bytes, record);
            for entry in 0..self.nodes[index].entries.len() {
                let Entry { name, iso, kind } = &self.nodes[index].entries[entry];
                let (name, iso, kind) = ((*name).to_owned(), iso.clone(), *kind);
                let (extent, is_directory, mode, links) = match kind {
                    EntryKind::Directory(node) => {
                        (self.directories[node], true, DIRECTORY_MODE, self.links(node))
                    }
                    EntryKind::File(content) => {
                        let extent = (self.files[file].0, content.bytes.len());
                        file += 1;
                        (extent, false, FILE_TYPE | content.mode & 0o7777, 1)
                    }
                };
                let mut fields = vec![px(mode, links)];
                fields.extend(nm(&name));
                let record =
                    self.record(iso.as_bytes(), extent, is_directory, fields, continuation);
                put(&mut bytes, record);
            }
            bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
            all.push(bytes);
        }
        all
    }

    /// Builds a directory record.
    fn record(
        &mut self,
        name: &[u8],
        (sector, bytes): (u32, usize),
        is_directory: bool,
        fields: Vec<Vec<u8>>,
        continuation: u32,
    ) -> Vec<u8> {
        const CE_BYTES: usize = 28;
        let mut record = vec![0, 0];
        record.extend(both32(sector));
        record.extend(both32(u32::try_from(bytes).unwrap_or(u32::MAX)));
        record.extend(DATE);
        record.extend([if is_directory { 2 } else { 0 }, 0, 0]);
        record.extend(both16(1));
        record.push(u8::try_from(name.len()).unwrap_or(0));
        record.extend_from_slice(name);
        if record.len() % 2 == 1 {
            record.push(0);
        }
        let mut fields = fields.into_iter().peekable();
        let rest: usize = fields.clone().map(|field| field.len()).sum();
        let fits = record.len() + rest <= RECORD_MAX;
        while let Some(next) = fields.peek() {
            let room = if fits { RECORD_MAX } else { RECORD_MAX - CE_BYTES };
            if record.len() + next.len() > room {
                break;
            }
            record.extend(fields.next().unwrap_or_default());
        }
        let left: Vec<u8> = fields.flatten().collect();
        if !left.is_empty() {
            // A continuation must not cross a sector boundary.
            let used = self.continuations.len() % SECTOR;
            if used + left.len() > SECTOR {
                self.continuations.resize(self.continuations.len().next_multiple_of(SECTOR), 0);
            }
            let at = self.continuations.len();
            let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
            let place =
                [continuation + number(at / SECTOR), number(at % SECTOR), number(left.len())];
            record.extend(field(b"CE", &place.into_iter().flat_map(both32).collect::<Vec<u8>>()));
            self.continuations.extend(left);
        }
        if record.len() % 2 == 1 {
            record.push(0);
        }
        record[0] = u8::try_from(record.len()).unwrap_or(u8::MAX);
        record
    }

    fn path_table(&self, little: bool) -> Vec<u8> {
        let mut table = Vec::new();
        for (node, (sector, _)) in self.nodes.iter().zip(&self.directories) {
            let parent = u16::try_from(node.parent + 1).unwrap_or(u16::MAX);
            let name = node.iso.as_bytes();
            table.extend([u8::try_from(name.len()).unwrap_or(0), 0]);
            if little {
                table.extend(sector.to_le_bytes());
                table.extend(parent.to_le_bytes());
            } else {
                table.extend(sector.to_be_bytes());
                table.extend(parent.to_be_bytes());
            }
            table.extend_from_slice(name);
            table.resize(table.len().next_multiple_of(2), 0);
        }
        table
    }

    fn volume_descriptor(&mut self, total: u32, table: usize) -> Vec<u8> {
        let mut bytes = vec![1];
        bytes.extend(b"CD001\x01\0");
        let text =
            |text: &str, length: usize| -> Vec<u8> { format!("{text:length$}").into_bytes() };
        bytes.extend(text("LINUX", 32));
        bytes.extend(text(LABEL, 32));
        bytes.extend([0; 8]);
        bytes.extend(both32(total));
        bytes.extend([0; 32]);
        for number in [1, 1, 2048] {
            bytes.extend(both16(number));
        }
        bytes.extend(both32(u32::try_from(table).unwrap_or(u32::MAX)));
        bytes.extend(PATH_TABLE_L.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(PATH_TABLE_M.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.record(b"\0", self.directories[0], true, Vec::new(), 0));
        for length in [128, 128, 128, 128, 37, 37, 37] {
            bytes.extend(text("", length));
        }
        bytes.extend_from_slice(LONG_DATE);
        bytes.extend_from_slice(LONG_DATE);
        bytes.extend_from_slice(b"0000000000000000\0");
        bytes.extend_from_slice(LONG_DATE);
        bytes.extend([1, 0]);
        bytes.resize(SECTOR, 0);
        bytes
    }

    fn write(&mut self) -> Vec<u8> {
        let directories_end =
            self.directories.last().map_or(DATA_SECTOR, |(sector, bytes)| sector + sectors(*bytes));
        let directories = self.make_directories(directories_end);
        let last = self.files.last().map(|(sector, file)| sector + sectors(file.bytes.len()));
        let total = last.unwrap_or(directories_end + sectors(self.continuations.len()));
        let (little, big) = (self.path_table(true), self.path_table(false));
        let mut image = vec![0; 16 * SECTOR];
        image.extend(self.volume_descriptor(total, little.len()));
        let mut end = vec![255];
        end.extend(b"CD001\x01");
        let mut add = |bytes: &[u8]| {
            image.extend_from_slice(bytes);
            image.resize(image.len().next_multiple_of(SECTOR), 0);
        };
        add(&end);
        add(&little);
        add(&big);
        directories.iter().for_each(|bytes| add(bytes));
        add(&self.continuations);
        self.files.iter().for_each(|(_, file)| add(&file.bytes));
        image
    }
}

/// Appends a record; records do not cross sector boundaries.
fn put(bytes: &mut Vec<u8>, record: Vec<u8>) {
    if bytes.len() % SECTOR + record.len() > SECTOR {
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    }
    bytes.extend(record);
}
