//! The process of a stream: its terminal, the agent's ends of its standard streams, and killing its
//! session.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use wire::TerminalSize;

use crate::sys;

/// The maximum number of rounds in which the processes of a session are killed. Each round after
/// the first can only find processes that were forked during the one before.
const SESSION_KILL_ROUNDS: u32 = 10;

/// The process of a stream, for requests that refer to the stream: the master side of its terminal,
/// if it has one.
#[derive(Debug, Default)]
pub(crate) struct Process(Mutex<Option<OwnedFd>>);

impl Process {
    fn terminal(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the terminal of a process that has started.
    pub(crate) fn started(&self, terminal: Option<OwnedFd>) {
        *self.terminal() = terminal;
    }

    /// Sets the size of the terminal.
    pub(crate) fn resize(&self, size: TerminalSize) -> nix::Result<()> {
        let terminal = self.terminal();
        let terminal = terminal.as_ref().ok_or(Errno::ENOTTY)?;
        sys::set_terminal_size(terminal, size.rows, size.columns)
    }

    /// Waits for the process, which has ended. Returns its raw status and its processor time in
    /// milliseconds.
    pub(crate) fn reap(&self, pid: Pid) -> nix::Result<(i32, u64)> {
        *self.terminal() = None;
        sys::wait_with_usage(pid)
    }
}

/// The agent's ends of the standard streams of a process.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) input: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: bool,
}

/// Kills the process group of a session leader and all other processes of its session.
pub(crate) fn kill_session(leader: Pid) {
    let _ = killpg(leader, Signal::SIGKILL);
    for _ in 0..SESSION_KILL_ROUNDS {
        let members = session_members(leader);
        if members.is_empty() {
            return;
        }
        for pid in members {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// Returns the living processes of a session.
fn session_members(leader: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            is_in_session(&stat, leader.as_raw())
        })
        .map(Pid::from_raw)
        .collect()
}

/// Whether a line of `/proc/PID/stat` describes a living process of this session.
fn is_in_session(stat: &str, leader: i32) -> bool {
    // The name in parentheses can contain any characters; the last parenthesis ends it.
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next().unwrap_or("X");
    let session = fields.nth(2).and_then(|field| field.parse().ok());
    session == Some(leader) && !matches!(state, "Z" | "X")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_past_hostile_names() {
        assert!(is_in_session("7 (a) R 1 (b)) S 1 40 40 0 -1", 40));
        assert!(!is_in_session("7 (sh) S 1 40 41 0 -1", 40));
        assert!(!is_in_session("7 (sh) Z 1 40 40 0 -1", 40));
        assert!(!is_in_session("", 40));
    }
}
