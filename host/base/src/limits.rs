//! Limits of disk sizes and data, since a few bytes of a file can expand to terabytes.

use std::path::Path;

use store::Extent;

use crate::BaseError;

/// Maximum disk size: the limit of ext4 with its usual 4 KiB blocks. It bounds the output of a few
/// compressed bytes.
pub(crate) const DISK_MAX_BYTES: u64 = 16 << 40;
/// Maximum data of one disk, without holes; distribution images have less than a tenth. It bounds
/// the output of a small file whose tables reference the same bytes repeatedly.
pub(crate) const DATA_MAX_BYTES: u64 = 256 << 30;

/// Bytes of data written to a raw disk, limited by [`DATA_MAX_BYTES`].
#[derive(Debug, Default)]
pub(crate) struct Written(u64);

impl Written {
    /// A counter after which `bytes` more can be written.
    pub(crate) fn with_room_for(bytes: u64) -> Self {
        Self(DATA_MAX_BYTES.saturating_sub(bytes))
    }

    /// Counts an extent read from a file.
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
