//! The logs of builds in the cache directory: each build writes a new one, and the latest
//! [`LOGS_KEPT`] are kept.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::ui::Utc;

/// Maximum number of logs: those of a busy day, at a few MiB each.
const LOGS_KEPT: usize = 50;
const PREFIX: &str = "vbuild-";
const SUFFIX: &str = ".log";

/// Returns the path of a new log: `vbuild-20261120-231735-PID.log`. `None` if the cache directory
/// cannot be written; code that needs the cache reports the error.
pub(crate) fn new_log(cache_dir: &Path) -> Option<PathBuf> {
    let folder = cache_dir.join("logs");
    fs::create_dir_all(&folder).ok()?;
    // A surplus log does no harm.
    let _ = prune(&folder, LOGS_KEPT - 1);
    let time = Utc::from(SystemTime::now()).compact();
    Some(folder.join(format!("{PREFIX}{time}-{}{SUFFIX}", std::process::id())))
}

/// Removes the oldest logs until `keep` are left. Their names sort by time.
fn prune(folder: &Path, keep: usize) -> io::Result<()> {
    let mut logs: Vec<String> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
        .collect();
    logs.sort_unstable();
    let surplus = logs.len().saturating_sub(keep);
    logs[..surplus].iter().try_for_each(|name| fs::remove_file(folder.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_logs_go_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vbuild-20200101-000000-9.log", "vbuild-20210101-000000-1.log", "a.log"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        prune(folder.path(), 1).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.log", "vbuild-20210101-000000-1.log"]);
    }

    #[test]
    fn an_unwritable_cache_has_no_log() {
        assert_eq!(new_log(Path::new("/proc/nothing")), None);
    }
}
