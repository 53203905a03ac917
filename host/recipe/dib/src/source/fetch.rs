//! Fetches the pinned release and keeps it in the cache.
//!
//! ```text
//! CACHE/diskimage-builder/3.43.0-a0e71b53/diskimage_builder/{lib,elements,…}
//! ```
//!
//! The directory is created beside its final path and renamed, so it is either complete or absent.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{Origin, SourceError, VERSION, World, index, is_package};

/// The source archive of the release; its digest is the one that the index publishes.
const FILE_NAME: &str = "diskimage_builder-3.43.0.tar.gz";
const SHA256: &str = "a0e71b53c62e9f91dfa29a19118b4f44f6c9ddbf490ce51700234f950d1d70df";
/// The part of the archive that is unpacked.
const ARCHIVE_PREFIX: &str = "diskimage_builder-3.43.0/diskimage_builder";

/// Limit for an index page; this project's page has about 100 KB.
const PAGE_MAX_BYTES: u64 = 8 << 20;
/// Limit for the archive; this one has 0.6 MB.
const ARCHIVE_MAX_BYTES: u64 = 32 << 20;
/// A download that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{url}`: {reason}")]
pub struct FetchFailure {
    /// The URL.
    pub url: String,
    /// The cause.
    pub reason: String,
}

/// Fetches a file from the network. The caller provides certificates, proxies and retries.
pub trait Fetcher {
    /// Downloads a URL, at most `limit` bytes.
    ///
    /// # Errors
    /// Fails if the file cannot be downloaded.
    fn get(&self, url: &str, limit: u64) -> Result<Vec<u8>, FetchFailure>;
}

/// The release from the cache, or otherwise from the index.
pub(super) fn cached_or_fetched<E: Fn(&str) -> Option<String>>(
    world: &World<'_, E>,
    fetcher: &dyn Fetcher,
) -> Result<(PathBuf, Origin), SourceError> {
    let parent = world.cache.join("diskimage-builder");
    let home = parent.join(format!("{VERSION}-{}", &SHA256[..8]));
    let package = home.join("diskimage_builder");
    if is_package(&package) {
        return Ok((package, Origin::Cached));
    }
    let archive = archive(world, fetcher)?;
    unpack(&archive, &parent, &home)?;
    Ok((package, Origin::Fetched))
}

fn archive<E: Fn(&str) -> Option<String>>(
    world: &World<'_, E>,
    fetcher: &dyn Fetcher,
) -> Result<Vec<u8>, SourceError> {
    let pip = index::pip_configuration(world);
    if let Some(path) = index::local_file(&pip, FILE_NAME)
        && let Ok(bytes) = fs::read(&path)
    {
        return verify(&path.display().to_string(), bytes);
    }
    let page_url = format!("{}/diskimage-builder/", pip.index);
    let page = fetcher.get(&page_url, PAGE_MAX_BYTES).map_err(SourceError::Fetch)?;
    let link = index::file_link(&page_url, &String::from_utf8_lossy(&page), FILE_NAME)
        .ok_or(SourceError::NotListed(page_url))?;
    verify(&link, fetcher.get(&link, ARCHIVE_MAX_BYTES).map_err(SourceError::Fetch)?)
}

fn verify(url: &str, bytes: Vec<u8>) -> Result<Vec<u8>, SourceError> {
    let found = hex::encode(Sha256::digest(&bytes));
    if found == SHA256 {
        Ok(bytes)
    } else {
        Err(SourceError::Digest { url: url.to_owned(), found, expected: SHA256 })
    }
}

/// Creates a directory and its parents below `top`. Guests see their modes, so these must not
/// depend on the umask.
fn make_directories(top: &Path, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for made in directory.ancestors().take_while(|ancestor| *ancestor != top) {
        fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Unpacks into a directory beside `home` and renames it.
fn unpack(archive: &[u8], parent: &Path, home: &Path) -> Result<(), SourceError> {
    let cache = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::Cache { path, source }
    };
    fs::create_dir_all(parent).map_err(cache(parent))?;
    let temporary =
        tempfile::Builder::new().prefix(".unpacking-").tempdir_in(parent).map_err(cache(parent))?;
    let package = temporary.path().join("diskimage_builder");
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let broken = |error: io::Error| SourceError::Archive(error.to_string());
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let Ok(relative) = path.strip_prefix(ARCHIVE_PREFIX) else { continue };
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(SourceError::Archive(format!("odd path `{}`", path.display())));
        }
        let to = package.join(relative);
        if entry.header().entry_type().is_dir() {
            make_directories(temporary.path(), &to).map_err(cache(&to))?;
            continue;
        }
        if !entry.header().entry_type().is_file() {
            return Err(SourceError::Archive(format!("odd entry `{}`", path.display())));
        }
        let executable = entry.header().mode().map_err(broken)? & 0o111 != 0;
        let directory = to.parent().unwrap_or(&package);
        make_directories(temporary.path(), directory).map_err(cache(directory))?;
        let mut file = fs::File::create(&to).map_err(cache(&to))?;
        io::copy(&mut entry, &mut file).map_err(cache(&to))?;
        let mode = if executable { 0o755 } else { 0o644 };
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(cache(&to))?;
    }
    if !is_package(&package) {
        return Err(SourceError::Archive("it holds no diskimage_builder".into()));
    }
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755))
        .map_err(cache(temporary.path()))?;
    let Err(source) = fs::rename(temporary.path(), home) else { return Ok(()) };
    // Another process was faster; its result is equivalent.
    if is_package(&home.join("diskimage_builder")) {
        return Ok(());
    }
    // What is there is damaged.
    let removed = match home.is_dir() {
        true => fs::remove_dir_all(home),
        false => fs::remove_file(home),
    };
    removed
        .and_then(|()| fs::rename(temporary.path(), home))
        .map_err(|_| SourceError::Cache { path: home.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_release_in_the_cache_is_replaced() {
        let mut tar = tar::Builder::new(Vec::new());
        for name in ["lib/die", "elements/base/element-deps", "logging_config.py"] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            tar.append_data(&mut header, format!("{ARCHIVE_PREFIX}/{name}"), &b""[..]).unwrap();
        }
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut packer, &tar.into_inner().unwrap()).unwrap();
        let archive = packer.finish().unwrap();
        let parent = tempfile::tempdir().unwrap();
        let home = parent.path().join("release");
        let package = home.join("diskimage_builder");
        for damage in [None, Some(package.join("lib/die")), Some(package.join("elements"))] {
            if let Some(path) = damage {
                fs::rename(&path, parent.path().join(path.file_name().unwrap())).unwrap();
            }
            assert!(!is_package(&package));
            unpack(&archive, parent.path(), &home).unwrap();
            assert!(is_package(&package));
        }
        fs::remove_dir_all(&home).unwrap();
        fs::write(&home, "").unwrap();
        unpack(&archive, parent.path(), &home).unwrap();
        assert!(is_package(&package));
    }
}
