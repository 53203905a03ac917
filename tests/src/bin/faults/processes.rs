//! Finds processes by their parents in /proc.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};

/// Time limit for all processes to end. A killed machine takes long on a busy host.
const GONE_LIMIT: Duration = Duration::from_secs(60);

/// A process of the host, as described by /proc.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    /// The id of the process.
    pub(crate) pid: i32,
    parent: i32,
    /// The command line of the process, with words separated by spaces.
    pub(crate) words: String,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        Some(Self { pid, parent, words })
    }

    /// Returns the regular files that the process has open.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return Vec::new();
        };
        let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        links.filter(|path| path.is_file()).collect()
    }
}

fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(Process::read).collect()
}

/// Returns all direct and indirect children of a process.
pub(crate) fn below(root: i32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// Waits until all processes started by this one are gone. It is the subreaper of orphans, so no
/// process escapes.
pub(crate) fn all_gone() -> Result<()> {
    let me = std::process::id().cast_signed();
    let started = Instant::now();
    loop {
        while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        let left = below(me);
        if left.is_empty() {
            return Ok(());
        }
        if started.elapsed() > GONE_LIMIT {
            let words: Vec<String> =
                left.iter().map(|process| format!("{} {}", process.pid, process.words)).collect();
            for process in &left {
                let _ = nix::sys::signal::kill(
                    Pid::from_raw(process.pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            bail!("processes are left: {}", words.join("; "));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
