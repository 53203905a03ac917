//! Where base images are kept.

use std::path::{Path, PathBuf};

/// The folder of base images in vbuild's cache.
pub(crate) fn folder(cache_dir: &Path) -> PathBuf {
    cache_dir.join("bases")
}
