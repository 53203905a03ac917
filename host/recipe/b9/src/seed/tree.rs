//! Arranges the files of a seed by directory.

use std::collections::BTreeMap;

use super::{SeedError, SeedFile};

/// A directory.
#[derive(Debug, Default)]
pub(super) struct Directory<'a> {
    pub(super) directories: BTreeMap<&'a str, Directory<'a>>,
    pub(super) files: BTreeMap<&'a str, &'a SeedFile>,
}

impl<'a> Directory<'a> {
    /// The root directory of all files; if two have the same path, the last one wins.
    pub(super) fn of(files: &'a [SeedFile]) -> Result<Self, SeedError> {
        let mut root = Self::default();
        for file in files {
            let mut place = &mut root;
            let mut parts = file.path.split('/').peekable();
            while let Some(part) = parts.next() {
                let last = parts.peek().is_none();
                let taken = if last {
                    place.directories.contains_key(part)
                } else {
                    place.files.contains_key(part)
                };
                if taken {
                    return Err(SeedError::Both(file.path.clone()));
                }
                if last {
                    place.files.insert(part, file);
                    break;
                }
                place = place.directories.entry(part).or_default();
            }
        }
        Ok(root)
    }
}
