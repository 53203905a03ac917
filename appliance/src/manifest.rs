//! The description of an appliance, stored beside it as JSON.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{configure, error::Error, packages};

/// The version of the manifest and of the layout of an appliance. It is part of
/// every digest, so that appliances of different versions do not meet.
pub(crate) const FORMAT: u32 = 2;

/// What an appliance is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`] when it was made.
    pub format: u32,
    /// The digest of all inputs, which names the appliance.
    pub digest: String,
    /// The release's code name.
    pub release: String,
    /// The architecture.
    pub architecture: String,
    /// The packages that were asked for beyond the tools.
    pub extra_packages: Vec<String>,
    /// The kernel.
    pub kernel: KernelEntry,
    /// The packages of the tool root, in the order of their configuration, and
    /// that of the kernel at the end.
    pub packages: Vec<PackageEntry>,
    /// The dates of the Release files it was resolved with.
    pub suites: Vec<SuiteEntry>,
    /// The version of the configuration driver.
    pub configure: u32,
    /// When it was made, in seconds since the epoch.
    pub created: u64,
    /// Bytes of its packages, as they were downloaded.
    pub download_bytes: u64,
    /// Bytes that its tool root takes on disk.
    pub root_bytes: u64,
}

/// The kernel of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelEntry {
    /// Its package.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// Its release, as `uname -r` says it.
    pub release: String,
}

/// A package of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageEntry {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The digest of its file.
    pub sha256: String,
}

/// A suite of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteEntry {
    /// Its code name.
    pub name: String,
    /// The date of its Release file.
    pub date: String,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or of another format.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bad = |why: String| Error::Manifest { path: path.to_owned(), why };
        let text = fs::read(path).map_err(Error::file("cannot read", path))?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(bad(format!("its format is {} instead of {FORMAT}", manifest.format)));
        }
        Ok(manifest)
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::file("cannot write", path)(error.into()))?;
        fs::write(path, text).map_err(Error::file("cannot write", path))
    }
}

/// A digest over parts of any length: each is preceded by its length, so that
/// no two lists of parts are the same bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct PartsDigest(Sha256);

impl PartsDigest {
    pub(crate) fn part(&mut self, part: &str) -> &mut Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part.as_bytes());
        self
    }

    pub(crate) fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

/// The key of a request: what is asked for, and by which version of the rules
/// an appliance is made.
#[must_use]
pub(crate) fn request_key(release: &str, extra_packages: &[String]) -> String {
    let mut digest = PartsDigest::default();
    digest.part("request").part(&FORMAT.to_string()).part(&configure::fingerprint()).part(release);
    digest.part(packages::KERNEL);
    for tool in packages::TOOLS {
        digest.part(tool);
    }
    digest.part("extra");
    for package in extra_packages {
        digest.part(package);
    }
    digest.finish()
}

/// The digest of an appliance: its request and the packages that answer it.
#[must_use]
pub(crate) fn appliance_digest(request_key: &str, packages: &[PackageEntry]) -> String {
    let mut digest = PartsDigest::default();
    digest.part("appliance").part(request_key);
    for package in packages {
        digest.part(&package.name).part(&package.version).part(&package.sha256);
    }
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_requests_apart() {
        let extra =
            |names: &[&str]| -> Vec<String> { names.iter().map(|n| (*n).to_owned()).collect() };
        let key = request_key("bookworm", &extra(&["a", "b"]));
        assert_eq!(key, request_key("bookworm", &extra(&["a", "b"])));
        assert_ne!(key, request_key("trixie", &extra(&["a", "b"])));
        assert_ne!(key, request_key("bookworm", &extra(&["ab"])));
        let package =
            PackageEntry { name: "a".to_owned(), version: "1".to_owned(), sha256: "x".to_owned() };
        assert_ne!(appliance_digest(&key, &[]), appliance_digest(&key, &[package]));
    }
}
