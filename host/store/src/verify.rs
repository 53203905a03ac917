//! Checks all objects and records of a store.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use crate::{Digest, Printable, Result, Store, StoreError, layout};

/// An error in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The content of an object does not have the digest that names it.
    Damaged(Digest),
    /// A record is invalid.
    BadRecord {
        /// The key of the record.
        key: Digest,
        /// The reason.
        reason: Printable,
    },
    /// A record names an object that does not exist.
    Incomplete {
        /// The key of the record.
        key: Digest,
        /// The name of the stage.
        stage: Printable,
        /// The digest of the missing object.
        missing: Digest,
    },
    /// A directory of objects or records that cannot be listed, or a file in its place.
    Unlisted(PathBuf),
}

/// The result of checking a store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// The number of objects that were read.
    pub objects: u64,
    /// The number of records that were read.
    pub records: u64,
    /// The errors that were found.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Reads the whole store. With `repair`, files with errors are removed, so that the results are
    /// built again.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or a file cannot be removed.
    pub fn verify(&self, repair: bool) -> Result<Verified> {
        let mut verified = Verified::default();
        for dir in [self.layout.objects(), self.layout.stages()] {
            for path in layout::unlisted(&dir)? {
                if repair {
                    self.layout.remove(&path)?;
                }
                verified.problems.push(Problem::Unlisted(path));
            }
        }
        for (digest, path) in layout::all_named(&self.layout.objects())? {
            let read = digest_of(&path).map_err(|error| StoreError::io("read", &path, error));
            match &read {
                // An object that gc has just removed is not an error; one that cannot be read is.
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                Err(error) if error.is_passing() => return read.map(|_| verified),
                _ => {}
            }
            verified.objects += 1;
            if !read.is_ok_and(|found| found == digest) {
                verified.problems.push(Problem::Damaged(digest));
                if repair {
                    self.layout.remove(&path)?;
                }
            }
        }
        for (key, path) in layout::all_named(&self.layout.stages())? {
            let _lock = self.lock(false)?;
            let Some(record) = self.record_at(&key)?.transpose() else { continue };
            verified.records += 1;
            let problem = match record {
                Err(reason) => Some(Problem::BadRecord { key, reason }),
                Ok(record) => {
                    let gone = |digest: &Digest| !self.layout.object(digest).is_file();
                    let missing = record.objects().find(gone);
                    missing.map(|missing| Problem::Incomplete { key, stage: record.name, missing })
                }
            };
            if let Some(problem) = problem {
                verified.problems.push(problem);
                if repair {
                    self.layout.remove(&path)?;
                }
            }
        }
        Ok(verified)
    }
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    Digest::of_reader(&mut File::open(path)?)
}
