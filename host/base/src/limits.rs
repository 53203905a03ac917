//! Limits on what a few bytes of a file can turn into.

use std::path::Path;

use store::Extent;

use crate::BaseError;

/// The largest disk: what ext4 can hold with its usual blocks. It bounds what a
/// few compressed bytes can turn into.
pub(crate) const DISK_MAX_BYTES: u64 = 16 << 40;
/// The most data of one disk, holes left out. No distribution's image has a tenth of this;
/// it bounds what a small file, whose tables lead to the same bytes again and again, writes.
pub(crate) const DATA_MAX_BYTES: u64 = 256 << 30;

/// The data that was written to a raw disk, for [`DATA_MAX_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct Written(u64);

impl Written {
    /// Counts an extent that comes from a file.
    pub(crate) fn add(&mut self, from: &Path, extent: &Extent) -> Result<(), BaseError> {
        if let Extent::Data { bytes, .. } = extent {
            self.0 = self.0.saturating_add(bytes.len() as u64);
        }
        if self.0 > DATA_MAX_BYTES {
            let reason = format!("it holds more than {} GiB of data", DATA_MAX_BYTES >> 30);
            return Err(BaseError::image(from, reason));
        }
        Ok(())
    }
}
