//! The processes that this crate starts, as their parent sees them: how they
//! begin, what they may ask, how they end.

use std::{
    io,
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::{Child, ExitStatus},
    sync::Mutex,
    thread,
    time::Duration,
};

use machine::{ConnectDecision, GuestConnect, OnGuestConnect};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};

use super::lock;
use crate::control::{AskConnect, Channel, Decision, FromVmm};

/// How long the VMM may take to build its machine. It reads kernel and initramfs
/// once; 30 s are for a host that is swapping.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of a process, until it has been waited for.
#[derive(Debug)]
pub(crate) struct Process(Mutex<Option<u32>>);

impl Process {
    /// That of a child that has not been waited for.
    pub(crate) fn of(child: &Child) -> Self {
        Self(Mutex::new(Some(child.id())))
    }

    /// The number.
    pub(crate) fn id(&self) -> Option<u32> {
        *lock(&self.0)
    }

    /// Ends the process at once.
    pub(crate) fn kill(&self) {
        if let Some(process) = *lock(&self.0)
            && let Ok(pid) = i32::try_from(process)
        {
            // Fails only for a process that has ended; it has not been waited for,
            // so the number is still its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Waits for the process; afterwards nobody may signal its number any more.
    pub(crate) fn reap(&self, child: &mut Child) -> Option<ExitStatus> {
        // Waits without reaping first, so that the number stays ours while `kill`
        // may still use it.
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while matches!(waitid(Id::Pid(pid), flags), Err(nix::errno::Errno::EINTR)) {}
        let mut process = lock(&self.0);
        *process = None;
        child.wait().ok()
    }
}

/// Waits for the first word of a process. An empty error means that it ended
/// without one.
pub(crate) fn wait_for_start(control: &Channel) -> Result<(), String> {
    let bounded = |timeout| control.set_timeout(timeout).map_err(|e| e.to_string());
    bounded(Some(START_TIMEOUT))?;
    match control.receive::<FromVmm>() {
        Ok(Some((FromVmm::Started, _))) => bounded(None),
        Ok(Some((FromVmm::Failed { reason }, _))) => Err(reason),
        Ok(Some((other, _))) => Err(format!("its first word was {other:?}")),
        Ok(None) => Err(String::new()),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            Err(format!("it said nothing for {} s", START_TIMEOUT.as_secs()))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Answers a process's questions about connections that the guest opens.
pub(crate) fn decide(policy: Channel, on_guest_connect: OnGuestConnect) -> io::Result<()> {
    let body = move || {
        while let Ok(Some((AskConnect { port }, _))) = policy.receive() {
            let sent = match on_guest_connect(GuestConnect { port }) {
                ConnectDecision::Accept(stream) => {
                    policy.send(&Decision { accept: true }, &[stream.as_fd()])
                }
                ConnectDecision::Refuse => policy.send(&Decision { accept: false }, &[]),
            };
            if sent.is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("microvm-policy".to_owned()).spawn(body).map(drop)
}

/// How a process ended that did not say so itself, with its last words.
pub(crate) fn describe(who: &str, status: ExitStatus, words: &str) -> String {
    let how = match status.signal() {
        Some(libc::SIGSYS) => "a system call that its sandbox forbids (SIGSYS)".to_owned(),
        Some(libc::SIGKILL) => {
            "SIGKILL, from outside or because the host ran out of memory".to_owned()
        }
        Some(signal) => format!("signal {signal}"),
        None => format!("{status}"),
    };
    let words = words.trim();
    if words.is_empty() {
        format!("{who} ended by {how}")
    } else {
        format!("{who} ended by {how}: {words}")
    }
}
