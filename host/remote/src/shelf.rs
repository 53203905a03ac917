//! Files of a place by name, for callers with a layout of their own. A file gets its name when it
//! is complete, so readers never see a part of one.

use std::{fs::File, sync::Arc};

use crate::{
    Options, Place, RemoteError,
    backend::{Backend, Got},
    open,
};

/// The files of a place.
#[derive(Debug)]
pub struct Shelf {
    place: Place,
    backend: Arc<dyn Backend>,
}

/// A file in a listed directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The name of the file in the directory.
    pub name: String,
    /// The size of the file in bytes.
    pub bytes: u64,
}

impl Shelf {
    /// Prepares the access to a place. Only the directory of [`Place::Folder`] is accessed: it is
    /// created if it is missing.
    ///
    /// # Errors
    /// Fails if the place cannot be used.
    pub fn open(place: Place, options: &Options) -> Result<Self, RemoteError> {
        let backend = open::open(&place, options)?;
        Ok(Self { place, backend })
    }

    /// Lists the files of a directory by name; empty if the directory does not exist.
    ///
    /// # Errors
    /// Fails if the place cannot be reached, or the directory has more than `max` files.
    pub async fn list(&self, folder: &str, max: usize) -> Result<Vec<Listed>, RemoteError> {
        let failed = |source| RemoteError::transfer("list", &self.place, folder, source);
        let mut listed = self.backend.list(folder, max).await.map_err(failed)?;
        listed.sort();
        Ok(listed)
    }

    /// Reads a file into `to`, and returns its size in bytes; `None` if it does not exist or is
    /// larger than `max_bytes`.
    ///
    /// # Errors
    /// Fails if the place cannot be reached, or `to` cannot be written.
    pub async fn get(
        &self,
        name: &str,
        to: &mut File,
        max_bytes: u64,
    ) -> Result<Option<u64>, RemoteError> {
        let failed = |source| RemoteError::transfer("get", &self.place, name, source);
        match self.backend.get(name, to, max_bytes).await.map_err(failed)? {
            Got::Whole(bytes) => Ok(Some(bytes)),
            Got::Missing | Got::Larger => Ok(None),
        }
    }

    /// Writes a file; an existing one of the same name is replaced.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub async fn put(&self, name: &str, from: &mut File, bytes: u64) -> Result<(), RemoteError> {
        let failed = |source| RemoteError::transfer("put", &self.place, name, source);
        self.backend.put(name, from, bytes).await.map_err(failed)
    }
}
