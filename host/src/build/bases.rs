//! The location of base images in vbuild's cache.

use std::path::{Path, PathBuf};

/// Returns the directory of base images in vbuild's cache.
pub(crate) fn folder(cache_dir: &Path) -> PathBuf {
    cache_dir.join("bases")
}
