//! Files of a place by name, for those who have a layout of their own there. Nothing is
//! written twice at once: a file takes its name when it is whole.

use std::{fs::File, sync::Arc};

use crate::{
    Options, Place, RemoteError,
    backend::{Backend, Got},
    open,
};

/// Files in a place.
#[derive(Debug)]
pub struct Shelf {
    place: Place,
    backend: Arc<dyn Backend>,
}

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The name of the file in the folder.
    pub name: String,
    /// The size of the file in bytes.
    pub bytes: u64,
}

impl Shelf {
    /// Prepares for a place; nothing is asked of it yet.
    ///
    /// # Errors
    /// A place that cannot be used.
    pub fn open(place: Place, options: &Options) -> Result<Self, RemoteError> {
        let backend = open::open(&place, options)?;
        Ok(Self { place, backend })
    }

    /// The files of a folder, by name; none when there is no such folder.
    ///
    /// # Errors
    /// When the place cannot be reached, or has more than `max` files there.
    pub async fn list(&self, folder: &str, max: usize) -> Result<Vec<Listed>, RemoteError> {
        let failed = |source| RemoteError::transfer("list", &self.place, folder, source);
        let mut listed = self.backend.list(folder, max).await.map_err(failed)?;
        listed.sort();
        Ok(listed)
    }

    /// Reads a file; gives how many bytes it has, or nothing when it is not there or has more
    /// than `max_bytes`.
    ///
    /// # Errors
    /// When the place cannot be reached.
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

    /// Writes a file, in the place of one of that name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put(&self, name: &str, from: &mut File, bytes: u64) -> Result<(), RemoteError> {
        let failed = |source| RemoteError::transfer("put", &self.place, name, source);
        self.backend.put(name, from, bytes).await.map_err(failed)
    }
}
