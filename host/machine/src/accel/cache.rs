//! Caches the report of the last probe while nothing changes that it depends on: the boot, the user
//! and groups, the version of vbuild, and the device's permissions. The file is in
//! `XDG_RUNTIME_DIR`, which belongs to the user alone and is removed after the session; without
//! that directory nothing is cached.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::{getegid, geteuid, getgroups};
use serde::{Deserialize, Serialize};

use super::ProbeReport;

/// Version of the file format.
const FORMAT: u32 = 1;
/// Maximum size of the file; a report has five checks of one line each.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// Everything on which a report depends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheKey {
    /// The kernel's boot id.
    boot_id: String,
    /// The effective user id.
    uid: u32,
    /// The effective and all supplementary group ids.
    groups: Vec<u32>,
    /// vbuild's version.
    version: String,
    /// Mode, owner, group and change time of the device; `None` if it is inaccessible.
    device: Option<(u32, u32, u32, i64)>,
}

impl CacheKey {
    /// The key of this process and this device.
    ///
    /// # Errors
    /// Fails if the kernel's boot id cannot be read.
    pub fn of_this_process(version: &str, device: &Path) -> io::Result<Self> {
        let boot_id = crate::host_boot_id()?;
        let mut groups: Vec<u32> = getgroups()?.into_iter().map(|gid| gid.as_raw()).collect();
        groups.push(getegid().as_raw());
        groups.sort_unstable();
        groups.dedup();
        let device = fs::metadata(device).ok().map(|m| (m.mode(), m.uid(), m.gid(), m.ctime()));
        Ok(Self { boot_id, uid: geteuid().as_raw(), groups, version: version.to_owned(), device })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    key: CacheKey,
    report: ProbeReport,
}

/// The cached report of a probe.
#[derive(Debug, Clone)]
pub struct ProbeCache {
    directory: Option<PathBuf>,
}

impl ProbeCache {
    /// The cache in this directory, the value of `XDG_RUNTIME_DIR`; with `None`, nothing is cached.
    #[must_use]
    pub fn new(runtime_dir: Option<&Path>) -> Self {
        Self { directory: runtime_dir.map(|dir| dir.join("vbuild")) }
    }

    /// Returns the cached report, or runs `probe` and caches its result. If the file cannot be
    /// used, the probe just runs again.
    pub fn get_or_probe(&self, key: &CacheKey, probe: impl FnOnce() -> ProbeReport) -> ProbeReport {
        if let Some(report) = self.get(key) {
            return report;
        }
        let report = probe();
        if let Err(cause) = self.put(key, &report) {
            tracing::debug!(%cause, "the report of the KVM probe is not kept");
        }
        report
    }

    fn path(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|dir| dir.join("kvm-probe.json"))
    }

    fn get(&self, key: &CacheKey) -> Option<ProbeReport> {
        let path = self.path()?;
        if fs::metadata(&path).ok()?.len() > FILE_MAX_BYTES {
            return None;
        }
        let file: File = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        (file.format == FORMAT && file.key == *key).then_some(file.report)
    }

    fn put(&self, key: &CacheKey, report: &ProbeReport) -> io::Result<()> {
        let (Some(directory), Some(path)) = (&self.directory, self.path()) else { return Ok(()) };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let temporary = directory.join(format!("kvm-probe.{}.tmp", std::process::id()));
        let file = File { format: FORMAT, key: key.clone(), report: report.clone() };
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut out| out.write_all(&serde_json::to_vec(&file)?))
            .and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::{Check, Outcome};

    fn report(detail: &str) -> ProbeReport {
        ProbeReport {
            checks: vec![Check {
                name: "open".to_owned(),
                outcome: Outcome::Passed,
                detail: Some(detail.to_owned()),
                hint: None,
            }],
        }
    }

    fn key(version: &str) -> CacheKey {
        CacheKey::of_this_process(version, Path::new("/dev/null")).unwrap()
    }

    #[test]
    fn a_report_is_kept_for_the_same_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ProbeCache::new(Some(dir.path()));
        assert_eq!(cache.get_or_probe(&key("1"), || report("first")), report("first"));
        assert_eq!(cache.get_or_probe(&key("1"), || panic!("kept")), report("first"));
        assert_eq!(cache.get_or_probe(&key("2"), || report("second")), report("second"));
        assert_eq!(cache.get_or_probe(&key("1"), || report("third")), report("third"));
    }

    #[test]
    fn a_spoiled_file_costs_a_probe() {
        let dir = tempfile::tempdir().unwrap();
        let cache = ProbeCache::new(Some(dir.path()));
        cache.get_or_probe(&key("1"), || report("first"));
        fs::write(dir.path().join("vbuild/kvm-probe.json"), "{").unwrap();
        assert_eq!(cache.get_or_probe(&key("1"), || report("again")), report("again"));
        assert_eq!(cache.get_or_probe(&key("1"), || panic!("kept")), report("again"));
    }

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let cache = ProbeCache::new(None);
        assert_eq!(cache.get_or_probe(&key("1"), || report("a")), report("a"));
        assert_eq!(cache.get_or_probe(&key("1"), || report("b")), report("b"));
    }
}
