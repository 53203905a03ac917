//! Reads a tar output: what is in it, with everything that a header tells.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub kind: tar::EntryType,
    pub mode: u32,
    pub owner: (u64, u64),
    pub device: Option<(u32, u32)>,
    pub link: Option<String>,
    pub seconds: u64,
    /// PAX records: attributes, precise times, sizes of sparse files.
    pub extensions: BTreeMap<String, Vec<u8>>,
    pub content: Vec<u8>,
}

/// The members by path, without a leading `./` and a trailing slash.
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
        let name = text(&entry.path_bytes());
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
            link: entry.link_name_bytes().map(|link| text(&link)),
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
