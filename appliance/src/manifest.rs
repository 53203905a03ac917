//! The manifest of an appliance, stored beside it as JSON.

use std::{fs, path::Path};

use architecture::MachineArchitecture;
use serde::{Deserialize, Serialize};

use crate::{configure, error::Error, packages, parts_digest::PartsDigest};

/// Version of the manifest and of the layout of an appliance. It is part of every digest, so that
/// appliances of different versions are distinct.
pub(crate) const FORMAT: u32 = 2;

/// The contents of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The value of [`FORMAT`] when it was built.
    pub format: u32,
    /// The digest of all inputs, which is the appliance's name.
    pub digest: String,
    /// The release's code name.
    pub release: String,
    /// The architecture.
    pub architecture: String,
    /// The requested packages in addition to the tools.
    pub extra_packages: Vec<String>,
    /// The kernel.
    pub kernel: KernelEntry,
    /// The packages of the tools root in configuration order, followed by the kernel's.
    pub packages: Vec<PackageEntry>,
    /// The suites, with the dates of their Release files.
    pub suites: Vec<SuiteEntry>,
    /// The version of the configuration driver.
    pub configure: u32,
    /// The time of its build, in seconds since the epoch.
    pub created: u64,
    /// Bytes downloaded for its packages.
    pub download_bytes: u64,
    /// The disk space of the tools root in bytes.
    pub root_bytes: u64,
}

/// The kernel of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelEntry {
    /// The name of the kernel's package.
    pub package: String,
    /// The version of the kernel's package.
    pub version: String,
    /// The kernel's release, as in `uname -r`.
    pub release: String,
}

/// A package of an appliance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageEntry {
    /// The name of the package.
    pub name: String,
    /// The version of the package.
    pub version: String,
    /// The SHA-256 digest of the package's file.
    pub sha256: String,
}

/// A suite of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteEntry {
    /// The code name of the suite.
    pub name: String,
    /// The date of the suite's Release file.
    pub date: String,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// Fails if the file cannot be read, is damaged, or has another format version.
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

    /// Writes the manifest.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::file("cannot write", path)(error.into()))?;
        fs::write(path, text).map_err(Error::file("cannot write", path))
    }
}

/// Returns the key of a request: a digest of the requested architecture, release and packages, and
/// of the version of the build rules.
#[must_use]
pub(crate) fn request_key(
    architecture: MachineArchitecture,
    release: &str,
    extra_packages: &[String],
) -> String {
    let mut digest = PartsDigest::default();
    digest.part("request").part(&FORMAT.to_string()).part(&configure::fingerprint()).part(release);
    digest.part(architecture.architecture().debian()).part(packages::kernel(architecture));
    for tool in packages::tools(architecture) {
        digest.part(tool);
    }
    digest.part("extra");
    for package in extra_packages {
        digest.part(package);
    }
    digest.finish()
}

/// Returns the digest of an appliance: of its request and the selected packages.
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
        let [amd64, arm64] = MachineArchitecture::ALL;
        let key = request_key(amd64, "bookworm", &extra(&["a", "b"]));
        assert_eq!(key, request_key(amd64, "bookworm", &extra(&["a", "b"])));
        assert_ne!(key, request_key(arm64, "bookworm", &extra(&["a", "b"])));
        assert_ne!(key, request_key(amd64, "trixie", &extra(&["a", "b"])));
        assert_ne!(key, request_key(amd64, "bookworm", &extra(&["ab"])));
        let package =
            PackageEntry { name: "a".to_owned(), version: "1".to_owned(), sha256: "x".to_owned() };
        assert_ne!(appliance_digest(&key, &[]), appliance_digest(&key, &[package]));
    }
}
