//! Reads the members of a tar output, with all header fields.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

/// A member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The type of the member.
    pub kind: tar::EntryType,
    /// The permission bits of the member.
    pub mode: u32,
    /// The user id and the group id of the member's owner.
    pub owner: (u64, u64),
    /// The device numbers of a device node.
    pub device: Option<(u32, u32)>,
    /// The target of a symbolic or hard link.
    pub link: Option<String>,
    /// The modification time of the member in seconds since 1970.
    pub seconds: u64,
    /// PAX records: attributes, precise times, sizes of sparse files.
    pub extensions: BTreeMap<String, Vec<u8>>,
    /// The content of the member.
    pub content: Vec<u8>,
}

impl Member {
    /// Returns the member without times, to compare builds that ran at different times.
    #[must_use]
    pub fn without_times(mut self) -> Self {
        self.seconds = 0;
        self.extensions.retain(|key, _| key.starts_with("SCHILY."));
        self
    }
}

/// Reads the members of an archive by path, without a leading `./` or a trailing slash.
///
/// # Panics
/// Panics if the file is not an archive.
#[must_use]
pub fn members(path: &Path) -> BTreeMap<String, Member> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let mut members = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let extensions = entry
            .pax_extensions()
            .unwrap()
            .into_iter()
            .flatten()
            .map(|record| {
                let record = record.unwrap();
                (record.key().unwrap().to_owned(), record.value_bytes().to_vec())
            })
            .collect();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let below = |name: String| match name.strip_prefix("./") {
            Some(below) if !below.is_empty() => below.to_owned(),
            _ => name,
        };
        let name = below(text(&entry.path_bytes()));
        let header = entry.header();
        let device = match header.entry_type() {
            tar::EntryType::Char | tar::EntryType::Block => Some((
                header.device_major().unwrap().unwrap(),
                header.device_minor().unwrap().unwrap(),
            )),
            _ => None,
        };
        let mut member = Member {
            kind: header.entry_type(),
            mode: header.mode().unwrap(),
            owner: (header.uid().unwrap(), header.gid().unwrap()),
            device,
            link: entry.link_name_bytes().map(|link| match header.entry_type() {
                tar::EntryType::Link => below(text(&link)),
                _ => text(&link),
            }),
            seconds: header.mtime().unwrap(),
            extensions,
            content: Vec::new(),
        };
        entry.read_to_end(&mut member.content).unwrap();
        let name = name.trim_start_matches("./").trim_end_matches('/').to_owned();
        members.insert(name, member);
    }
    members
}
