//! Statistics of the layers of a store: how much data they contain, and how much of it is distinct.

use std::{collections::HashSet, fs::File, io};

use crate::{
    Result, Store, StoreError,
    changed::{BLOCK_BYTES, Mark, mark},
    extents::{Extent, ExtentSource},
    layer::Decoder,
    layout,
};

/// The amount of data in the layers of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Content {
    /// The number of layers.
    pub layers: u64,
    /// The size of their data before compression, in bytes.
    pub data_bytes: u64,
    /// The size of the distinct blocks of 4 KiB in the data, without zeros, in bytes.
    pub distinct_bytes: u64,
    /// The size of the compressed layers in bytes.
    pub stored_bytes: u64,
    /// The number of objects that cannot be opened, and of layers that cannot be read to their end.
    pub unread: u64,
}

impl Store {
    /// Reads all layers. Objects that are not layers, such as logs, are skipped; damaged layers
    /// count as far as they can be read (see [`Store::verify`]).
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub fn content(&self) -> Result<Content> {
        let mut content = Content::default();
        let mut seen: HashSet<Mark> = HashSet::new();
        for (_, path) in layout::all_named(&self.layout.objects())? {
            let file = match File::open(&path) {
                Ok(file) => file,
                // Garbage collection may have removed the object meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => {
                    content.unread += 1;
                    continue;
                }
            };
            let bytes = file.metadata().map_err(|e| StoreError::io("examine", &path, e))?.len();
            let Ok(mut layer) = Decoder::new(file) else { continue };
            content.layers += 1;
            content.stored_bytes += bytes;
            loop {
                let bytes = match layer.next_extent() {
                    Ok(Some(Extent::Data { bytes, .. })) => bytes,
                    Ok(Some(Extent::Zeros { .. })) => continue,
                    Ok(None) => break,
                    Err(_) => {
                        content.unread += 1;
                        break;
                    }
                };
                content.data_bytes += bytes.len() as u64;
                for block in bytes.chunks(BLOCK_BYTES) {
                    if block.iter().any(|byte| *byte != 0) && seen.insert(mark(block)) {
                        content.distinct_bytes += block.len() as u64;
                    }
                }
            }
        }
        Ok(content)
    }
}
