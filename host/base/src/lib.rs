//! Base images: disks from which a build starts instead of an empty one.
//!
//! ```text
//! URL ─ fetch (once, verified) ─► file ─ identify (digest, remembered) ─ unpack ─► raw disk
//!       downloads/ALGORITHM-HEX          seen/HASH-OF-PATH                disks/DIGEST.raw
//! ```
//!
//! Everything is below one folder in the user's cache. The raw disk is sparse, is created once per
//! content, and is read-only from then on: builds copy it. Entries that were not used for long are
//! removed ([`gc`]). No program is run: qcow2, vmdk and compressed files are read in process.
//!
//! Architecture invariant: does not depend on plans or recipes.

mod backing;
mod blocks;
mod error;
mod fetch;
pub mod fuzzing;
mod gc;
mod identify;
mod limits;
mod magic;
mod overlay;
mod partition;
mod source;
mod unfinished;
mod unpack;
mod vmdk;

use std::{
    fs,
    path::{Path, PathBuf},
};

pub use backing::{AllowedBacking, Backing, note_backing};
pub use error::BaseError;
pub use fetch::{Expected, Fetched, fetch, fetched};
pub use gc::{Collected, gc, note_overlay, note_use};
pub use magic::Magic;
pub use overlay::{Written, write_overlay};
pub use partition::{Partition, partition};
pub use qcow2::BackingFormat;
pub use store::Digest;
pub use unpack::Format;

use source::ImageFile;
use unpack::Chain;

/// A base image that is ready to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseImage {
    /// The raw disk, which must never be written.
    pub raw: PathBuf,
    /// Its size in bytes, a multiple of 512.
    pub bytes: u64,
    /// The digest of its source file and of the backing files.
    pub digest: Digest,
    /// The absolute path of its source file.
    pub source: PathBuf,
    /// The format of the source file; `None` if it is compressed.
    pub format: Option<Format>,
}

/// Identifies a local image, and converts it to a raw disk below `folder`. A backing file is read
/// only if vbuild has recorded it ([`note_backing`]) or the user allows it.
///
/// # Errors
/// Fails if a file cannot be read or is not an image, if the digest differs, or if a backing file
/// is not allowed.
pub fn open(
    file: &Path,
    expected: Option<&Expected>,
    allowed: &AllowedBacking,
    folder: &Path,
) -> Result<BaseImage, BaseError> {
    let source = fs::canonicalize(file).map_err(|e| BaseError::io("open", file, e))?;
    let image = ImageFile::named(&source)?;
    if let Some(expected) = expected {
        expected.check(&image)?;
    }
    let chain = Chain::of(image, allowed, folder)?;
    let digest = identify::digest(chain.files(), folder)?;
    let disks = folder.join("disks");
    let raw = disks.join(format!("{digest}.raw"));
    let bytes = match source::readable_bytes(&raw) {
        Some(bytes) => bytes,
        None => unpack::unpack(&chain, &disks, &raw)?,
    };
    gc::note_use(folder, &raw);
    Ok(BaseImage { raw, bytes, digest, source, format: chain.format() })
}

/// The files of a qcow2 image with their formats, topmost first, under the rules of [`open`].
///
/// # Errors
/// Fails on an invalid header, and on a backing file that is not allowed or does not exist.
pub fn layers(
    file: &Path,
    allowed: &AllowedBacking,
    folder: &Path,
) -> Result<Vec<(PathBuf, BackingFormat)>, BaseError> {
    let source = fs::canonicalize(file).map_err(|e| BaseError::io("open", file, e))?;
    let layers = backing::chain(ImageFile::named(&source)?, allowed, folder)?;
    Ok(layers.into_iter().map(|layer| (layer.file.path, layer.format)).collect())
}
