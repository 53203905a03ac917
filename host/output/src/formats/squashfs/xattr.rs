//! Extended attributes: each distinct set is stored once.

use std::{collections::HashMap, sync::Arc};

use tar_stream::Xattr;

use super::meta::Meta;

/// The attribute index of a node without attributes.
pub(super) const NO_XATTRS: u32 = u32::MAX;

/// The namespaces of the format; the index is the type number.
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Whether the format supports the namespace of a name.
pub(super) fn is_known(name: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

type Pairs = Vec<Xattr>;

/// Memory charged for a new set beside its bytes: two counters, its vector, and entries in the list
/// and the table, which grow by doubling.
const SET_BYTES: u64 = 192;
/// Memory charged for a pair beside its bytes.
const PAIR_BYTES: u64 = 2 * size_of::<Xattr>() as u64;

/// All distinct attribute sets.
#[derive(Debug, Default)]
pub(super) struct Xattrs {
    by_pairs: HashMap<Arc<Pairs>, u32>,
    sets: Vec<Arc<Pairs>>,
}

impl Xattrs {
    /// The index of a set, and the memory charged if it is new. Attributes in unsupported
    /// namespaces are left out; the caller reports them.
    pub(super) fn index(&mut self, pairs: &[Xattr]) -> (u32, u64) {
        let kept: Vec<_> = pairs.iter().filter(|(name, _)| is_known(name)).cloned().collect();
        if kept.is_empty() {
            return (NO_XATTRS, 0);
        }
        if let Some(index) = self.by_pairs.get(&kept) {
            return (*index, 0);
        }
        let bytes = |(name, value): &Xattr| (name.len() + value.len()) as u64 + PAIR_BYTES;
        // Twice, because the written table has a copy.
        let taken = SET_BYTES + 2 * kept.iter().map(bytes).sum::<u64>();
        let kept = Arc::new(kept);
        let index = u32::try_from(self.sets.len()).unwrap_or(NO_XATTRS);
        self.by_pairs.insert(Arc::clone(&kept), index);
        self.sets.push(kept);
        (index, taken)
    }

    /// The pairs as metadata, the table of sets, and the number of sets.
    pub(super) fn finish(&self, compress: bool) -> Option<(Vec<u8>, Meta, u32)> {
        if self.sets.is_empty() {
            return None;
        }
        let (mut pairs, mut table) = (Meta::new(compress), Meta::new(compress));
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or_default();
        for set in &self.sets {
            let place = pairs.place();
            for (name, value) in set.iter() {
                let known = PREFIXES.iter().position(|prefix| name.starts_with(prefix));
                let space = known.unwrap_or_default();
                let rest = &name[PREFIXES[space].len()..];
                for field in [space, rest.len()] {
                    pairs.append(&u16::try_from(field).unwrap_or_default().to_le_bytes());
                }
                pairs.append(rest);
                pairs.append(&length(value).to_le_bytes());
                pairs.append(value);
            }
            // The length of the list of names, each terminated by NUL.
            let names: u32 = set.iter().map(|(name, _)| length(name) + 1).sum();
            table.append(&place.reference().to_le_bytes());
            table.append(&u32::try_from(set.len()).unwrap_or_default().to_le_bytes());
            table.append(&names.to_le_bytes());
        }
        let count = u32::try_from(self.sets.len()).unwrap_or_default();
        Some((pairs.finish(), table, count))
    }
}
