//! The package indices of the suites, and relations between packages.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufRead},
};

use crate::{deb822, version, version::Relation};

/// The fields kept of an index entry; the rest, more than two thirds of the text, is never stored.
const FIELDS: &[&str] = &[
    "Package",
    "Version",
    "Essential",
    "Priority",
    "Depends",
    "Pre-Depends",
    "Provides",
    "Conflicts",
    "Breaks",
    "Filename",
    "Size",
    "SHA256",
];

/// An alternative of a dependency: a name, with an optional version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    /// The package's or virtual package's name.
    pub name: String,
    /// The relation to a version that it must satisfy.
    pub version: Option<(Relation, String)>,
}

impl std::fmt::Display for Alternative {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        let Some((relation, bound)) = &self.version else { return Ok(()) };
        let operator = match relation {
            Relation::Earlier => "<<",
            Relation::EarlierOrEqual => "<=",
            Relation::Equal => "=",
            Relation::LaterOrEqual => ">=",
            Relation::Later => ">>",
        };
        write!(f, " ({operator} {bound})")
    }
}

/// Parses a relation field into clauses of alternatives: `a, b | c (>= 1)`. Binary indices have no
/// architecture or build-profile qualifiers except `:any`, which has no effect with one
/// architecture.
#[must_use]
pub(crate) fn parse_relations(field: &str) -> Vec<Vec<Alternative>> {
    field
        .split(',')
        .map(|clause| clause.split('|').filter_map(parse_alternative).collect::<Vec<_>>())
        .filter(|clause| !clause.is_empty())
        .collect()
}

fn parse_alternative(text: &str) -> Option<Alternative> {
    let text = text.trim();
    let (name, rest) = match text.split_once('(') {
        Some((name, rest)) => (name.trim(), Some(rest)),
        None => (text, None),
    };
    let name = name.split([':', ' ', '[']).next().unwrap_or_default();
    if name.is_empty() {
        return None;
    }
    let version = rest.and_then(|rest| {
        let inner = rest.split(')').next()?.trim();
        let end = inner.find(|c: char| !matches!(c, '<' | '>' | '='))?;
        Some((Relation::parse(&inner[..end])?, inner[end..].trim().to_owned()))
    });
    Some(Alternative { name: name.to_owned(), version })
}

/// An entry of a package index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Package {
    /// The name of the package.
    pub name: String,
    /// The version of the package.
    pub version: String,
    /// Whether the package is essential.
    pub essential: bool,
    /// The priority of the package, which selects among providers of a virtual package.
    pub priority: String,
    /// `Depends` and `Pre-Depends`, unparsed, since they are needed for few packages.
    pub depends: String,
    /// `Provides`, unparsed.
    pub provides: String,
    /// `Conflicts` and `Breaks`, unparsed.
    pub conflicts: String,
    /// The path of the package's file, relative to the root of the archive.
    pub filename: String,
    /// The size of the package's file in bytes.
    pub size: u64,
    /// The SHA-256 digest of the package's file, 64 hexadecimal digits.
    pub sha256: String,
    /// The index of the package's archive in the caller's list.
    pub archive: u8,
}

impl Package {
    fn from_paragraph(paragraph: &deb822::Paragraph, archive: u8) -> Option<Self> {
        let text = |name: &str| paragraph.get(name).unwrap_or_default().to_owned();
        let joined = |first: &str, second: &str| match (paragraph.get(first), paragraph.get(second))
        {
            (Some(a), Some(b)) => format!("{a}, {b}"),
            (Some(one), None) | (None, Some(one)) => one.to_owned(),
            (None, None) => String::new(),
        };
        let sha256 = text("SHA256").to_ascii_lowercase();
        let filename = text("Filename");
        let safe_path = !filename.starts_with('/')
            && filename.split('/').all(|part| !part.is_empty() && part != ".." && part != ".");
        let hex = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !safe_path || !hex {
            return None;
        }
        Some(Self {
            name: paragraph.get("Package")?.to_owned(),
            version: paragraph.get("Version")?.to_owned(),
            essential: paragraph.get("Essential") == Some("yes"),
            priority: text("Priority"),
            depends: joined("Pre-Depends", "Depends"),
            provides: text("Provides"),
            conflicts: joined("Conflicts", "Breaks"),
            filename,
            size: paragraph.get("Size")?.parse().ok()?,
            sha256,
            archive,
        })
    }

    /// Whether the package itself satisfies a dependency.
    #[must_use]
    pub(crate) fn satisfies(&self, wanted: &Alternative) -> bool {
        self.name == wanted.name
            && wanted
                .version
                .as_ref()
                .is_none_or(|(relation, bound)| relation.holds(&self.version, bound))
    }

    /// Whether the package provides what a dependency needs. A versioned dependency is only
    /// satisfied by a versioned provision.
    #[must_use]
    pub(crate) fn provides(&self, wanted: &Alternative) -> bool {
        if !self.provides.contains(&wanted.name) {
            return false;
        }
        parse_relations(&self.provides).into_iter().flatten().any(|provided| {
            provided.name == wanted.name
                && match (&wanted.version, &provided.version) {
                    (None, _) => true,
                    (Some((relation, bound)), Some((Relation::Equal, version))) => {
                        relation.holds(version, bound)
                    }
                    (Some(_), _) => false,
                }
        })
    }
}

/// Size of a block of text that is compressed as a unit: small enough that a lookup takes a tenth
/// of a millisecond, large enough to compress well.
const BLOCK_BYTES: usize = 64 << 10;
/// The compression level of a block: the fastest, as indices are read once and kept for seconds.
const BLOCK_LEVEL: i32 = 1;

/// The position of a package in the compressed text.
#[derive(Debug)]
struct Slot {
    name: Box<str>,
    version: Box<str>,
    archive: u8,
    essential: bool,
    /// The number of the package in reading order.
    number: u32,
    block: u32,
    start: u32,
    end: u32,
}

/// All packages of all suites, each in its newest version.
///
/// A release has 60,000 packages and an appliance 300 of them, so entries are stored as compressed
/// text and parsed on demand: 15 MB of memory instead of 70.
#[derive(Debug, Default)]
pub(crate) struct Index {
    slots: Vec<Slot>,
    blocks: Vec<Vec<u8>>,
    open_block: String,
    /// Pairs of the hash of a virtual package's name and the number of a provider.
    providers: Vec<(u64, u32)>,
}

fn name_hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Index {
    /// Adds the packages of an uncompressed `Packages` file. Entries without required fields are
    /// skipped; such a package is reported as missing if it is needed.
    ///
    /// # Errors
    /// Fails if the text cannot be read or is not an index.
    pub(crate) fn add(&mut self, input: impl BufRead, archive: u8) -> io::Result<()> {
        let mut reader = deb822::Reader::keeping(input, FIELDS);
        while let Some(paragraph) = reader.next_paragraph()? {
            self.insert(&paragraph, archive)?;
        }
        Ok(())
    }

    fn insert(&mut self, paragraph: &deb822::Paragraph, archive: u8) -> io::Result<()> {
        let Some(package) = Package::from_paragraph(paragraph, archive) else { return Ok(()) };
        let too_many =
            |_| io::Error::new(io::ErrorKind::InvalidData, "an index has too many packages");
        let number = u32::try_from(self.slots.len()).map_err(too_many)?;
        for provided in parse_relations(&package.provides).into_iter().flatten() {
            self.providers.push((name_hash(&provided.name), number));
        }
        let start = u32::try_from(self.open_block.len()).map_err(too_many)?;
        for (name, value) in paragraph.iter() {
            let one_line = value.replace('\n', " ");
            self.open_block.extend([name, ": ", &one_line, "\n"]);
        }
        self.slots.push(Slot {
            name: package.name.into(),
            version: package.version.into(),
            archive,
            essential: package.essential,
            number,
            block: u32::try_from(self.blocks.len()).map_err(too_many)?,
            start,
            end: u32::try_from(self.open_block.len()).map_err(too_many)?,
        });
        if self.open_block.len() >= BLOCK_BYTES { self.close_block() } else { Ok(()) }
    }

    fn close_block(&mut self) -> io::Result<()> {
        self.blocks.push(zstd::encode_all(self.open_block.as_bytes(), BLOCK_LEVEL)?);
        self.open_block.clear();
        Ok(())
    }

    /// Sorts the packages and removes duplicates: of several versions of a package the latest is
    /// kept, and of equal ones that of the first archive. Must be called once, at the end.
    ///
    /// # Errors
    /// Fails if the last block cannot be compressed.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.close_block()?;
        self.open_block = String::new();
        let numbers = self.slots.len();
        self.slots.sort_by(|a, b| {
            let later_first = || version::compare(&b.version, &a.version);
            a.name.cmp(&b.name).then_with(later_first).then(a.number.cmp(&b.number))
        });
        self.slots.dedup_by(|later, first| later.name == first.name);
        self.slots.shrink_to_fit();
        // Maps the reading order to the sorted position.
        let mut places = vec![None; numbers];
        for (place, slot) in self.slots.iter().enumerate() {
            if let (Some(entry), Ok(place)) =
                (places.get_mut(slot.number as usize), u32::try_from(place))
            {
                *entry = Some(place);
            }
        }
        self.providers = std::mem::take(&mut self.providers)
            .into_iter()
            .filter_map(|(hash, number)| Some((hash, places.get(number as usize).copied()??)))
            .collect();
        self.providers.sort_unstable();
        self.providers.dedup();
        Ok(())
    }

    fn read(&self, slot: &Slot) -> Option<Package> {
        let block = zstd::decode_all(self.blocks.get(slot.block as usize)?.as_slice()).ok()?;
        let text = block.get(slot.start as usize..slot.end as usize)?;
        let paragraph = deb822::Reader::new(text).next_paragraph().ok()??;
        Package::from_paragraph(&paragraph, slot.archive)
    }

    /// Looks up a package by name.
    #[must_use]
    pub(crate) fn get(&self, name: &str) -> Option<Package> {
        let place = self.slots.binary_search_by(|slot| (*slot.name).cmp(name)).ok()?;
        self.read(&self.slots[place])
    }

    /// Returns the essential packages, sorted by name.
    #[must_use]
    pub(crate) fn essential(&self) -> Vec<Package> {
        self.slots.iter().filter(|slot| slot.essential).filter_map(|slot| self.read(slot)).collect()
    }

    /// Returns the packages that provide what a dependency needs, best first: by priority, then by
    /// name, so that the choice is deterministic.
    #[must_use]
    pub(crate) fn providers(&self, wanted: &Alternative) -> Vec<Package> {
        let hash = name_hash(&wanted.name);
        let first = self.providers.partition_point(|(other, _)| *other < hash);
        let mut found: Vec<Package> = self.providers[first..]
            .iter()
            .take_while(|(other, _)| *other == hash)
            .filter_map(|(_, place)| self.read(self.slots.get(*place as usize)?))
            .filter(|package| package.provides(wanted))
            .collect();
        found.sort_by(|a, b| {
            let rank = |package: &Package| priority_rank(&package.priority);
            rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
        });
        found
    }
}

/// Returns the rank of a priority; smaller is more important.
fn priority_rank(priority: &str) -> u8 {
    match priority {
        "required" => 0,
        "important" => 1,
        "standard" => 2,
        "optional" => 3,
        _ => 4,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An index for tests: package names, with additional lines for their entries.
    pub(crate) fn index_of(packages: &[(&str, &str)]) -> Index {
        let mut index = Index::default();
        for (name, lines) in packages {
            index.add(entry(name, "1", lines).as_bytes(), 0).unwrap();
        }
        index.finish().unwrap();
        index
    }

    fn entry(name: &str, version: &str, extra: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/{name}.deb\nSize: 10\nSHA256: {}\n{extra}\n",
            "ab".repeat(32)
        )
    }

    #[test]
    fn relations_are_parsed() {
        let clauses = parse_relations("libc6 (>= 2.36), awk:any | mawk , perl (<<5), ");
        assert_eq!(clauses.len(), 3);
        assert_eq!(clauses[1][0].name, "awk");
        assert_eq!(clauses[0][0].version, Some((Relation::LaterOrEqual, "2.36".to_owned())));
        assert_eq!(clauses[2][0].to_string(), "perl (<< 5)");
    }

    #[test]
    fn the_newest_version_wins_and_the_first_archive_of_equals() {
        let mut index = Index::default();
        index.add(entry("a", "1.9", "").as_bytes(), 0).unwrap();
        index.add(entry("a", "1.10", "").as_bytes(), 1).unwrap();
        index.add(entry("a", "1.10", "").as_bytes(), 2).unwrap();
        index.finish().unwrap();
        assert_eq!(index.get("a").unwrap().archive, 1);
    }

    #[test]
    fn an_entry_that_points_outside_is_left_out() {
        let mut index = Index::default();
        let text = entry("a", "1", "").replace("pool/a.deb", "pool/../../x");
        index.add(text.as_bytes(), 0).unwrap();
        index.finish().unwrap();
        assert_eq!(index.get("a"), None);
    }

    #[test]
    fn provisions_with_versions() {
        let mut index = Index::default();
        index.add(entry("p", "1", "Provides: v (= 3), w\n").as_bytes(), 0).unwrap();
        index.finish().unwrap();
        let asked = |text: &str| index.providers(&parse_relations(text)[0][0]).len();
        assert_eq!(asked("v"), 1);
        assert_eq!(asked("v (>= 2)"), 1);
        assert_eq!(asked("v (>= 4)"), 0);
        assert_eq!(asked("w"), 1);
        assert_eq!(asked("w (>= 1)"), 0);
    }
}
