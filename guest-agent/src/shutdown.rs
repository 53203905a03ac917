//! Shuts the machine down: ends all processes, unmounts and flushes all filesystems, and turns the
//! power off. For tests, it also crashes the agent or the machine.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wire::{CrashKind, Failure, MountEntry};

use crate::console::say;
use crate::failure::{Doing, failure};
use crate::mounts;

/// How long filesystems may stay busy after their users were killed: a killed process that is still
/// writing can keep its files open for a moment.
const UNMOUNT_WAIT: Duration = Duration::from_secs(10);

/// The interval between two rounds of unmounting.
const UNMOUNT_INTERVAL: Duration = Duration::from_millis(10);

/// The mount points that stay mounted to the end: those of PID 1.
const KEPT: [&str; 8] =
    ["/", "/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/run"];

/// Kills every process except PID 1 and the agent.
pub(crate) fn kill_all() {
    // With -1, the kernel excludes PID 1 and the caller.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
}

/// Unmounts and flushes all filesystems. Those on disks that stay busy are remounted read-only; if
/// that fails too, the failure names them.
pub(crate) fn leave_clean() -> Result<(), Failure> {
    let end = Instant::now() + UNMOUNT_WAIT;
    let mut left = unmount_all()?;
    while !left.is_empty() && Instant::now() < end {
        std::thread::sleep(UNMOUNT_INTERVAL);
        left = unmount_all()?;
    }
    let dirty: Vec<String> = left
        .into_iter()
        .chain(root_on_disk())
        .filter(|entry| on_disk(entry) && remount_read_only(&entry.target).is_err())
        .map(|entry| entry.target)
        .collect();
    nix::unistd::sync();
    if dirty.is_empty() {
        return Ok(());
    }
    Err(failure(format!("unmount `{}`", dirty.join("`, `")), "it stays busy"))
}

fn on_disk(entry: &MountEntry) -> bool {
    entry.source.starts_with("/dev/")
}

/// Thaws every filesystem on a disk: a frozen one would block everything that follows.
pub(crate) fn thaw_all() {
    let entries = mounts::list().unwrap_or_default();
    let targets = entries.into_iter().filter(on_disk).map(|entry| entry.target);
    for target in targets {
        let _ = mounts::thaw(&[target]);
    }
}

/// Unmounts everything once, in reverse order. Returns what is still mounted.
fn unmount_all() -> Result<Vec<MountEntry>, Failure> {
    let entries = mounts::list()?.into_iter().rev();
    let mut left = Vec::new();
    for entry in entries.filter(|entry| !KEPT.contains(&entry.target.as_str())) {
        match umount2(entry.target.as_str(), MntFlags::UMOUNT_NOFOLLOW) {
            // It is no longer there: it was unmounted with an earlier one.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(_) => left.push(entry),
        }
    }
    Ok(left)
}

fn root_on_disk() -> Option<MountEntry> {
    let entries = mounts::list().unwrap_or_default();
    entries.into_iter().rfind(|entry| entry.target == "/")
}

fn remount_read_only(target: &str) -> nix::Result<()> {
    let none: Option<&str> = None;
    nix::mount::mount(none, target, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)
}

/// Turns the power off immediately; returns only if that fails.
pub(crate) fn power_off() -> Failure {
    let off: nix::Result<Infallible> = reboot(RebootMode::RB_POWER_OFF);
    match off.doing(|| "power off") {
        Ok(never) => match never {},
        Err(failure) => {
            say(&failure.to_string());
            failure
        }
    }
}

/// Crashes the agent or the machine.
pub(crate) fn crash(how: CrashKind) -> Result<(), Failure> {
    match how {
        CrashKind::AgentExit => {
            say("exiting, as a test asked for");
            std::process::exit(70);
        }
        CrashKind::KernelPanic => {
            std::fs::write("/proc/sysrq-trigger", "c").doing(|| "make the kernel panic")
        }
        CrashKind::PowerOff => Err(power_off()),
    }
}
