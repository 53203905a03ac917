//! The processes of this crate from the parent's side: start, requests, exit.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use confine::Landlock;
use machine::{ConnectDecision, GuestConnect, OnGuestConnect};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};

use vsock_mux::{CONNECTIONS_MAX, ConnectError};

use super::{
    lock,
    output::{LogTail, Tail, follow},
    resident::Mappings,
};
use crate::{
    control::{AskConnect, Channel, Decision, FromVmm, ToVmm},
    counters::{Counter, Counters},
};

/// Time limit for building the machine. The VMM reads kernel and initramfs once; 30 s allow for a
/// host that is swapping.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes kept of a process's error messages.
const WORDS_TAIL_BYTES: usize = 4 << 10;

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A resource of the host is exhausted, or the program does not exist.
    #[error("failed to {action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    /// The error reported by the process, or its exit status.
    #[error("{0}")]
    Process(String),
}

/// The parameters of starting a process.
pub(crate) struct Launch<'a> {
    /// The program, which calls [`crate::vmm_child`] for these arguments.
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [OsString],
    /// An additional argument that identifies the process in process listings.
    pub(crate) name: &'a str,
    /// The program's name in process listings.
    pub(crate) shown_as: &'a str,
    /// The name in errors.
    pub(crate) who: &'a str,
    /// Decides about connections that the guest opens.
    pub(crate) on_guest_connect: OnGuestConnect,
    /// Receives the tail of its standard output.
    pub(crate) console: Option<Arc<Mutex<Tail>>>,
}

/// A started process.
pub(crate) struct Launched {
    pub(crate) control: Channel,
    pub(crate) child: Child,
    pub(crate) words: LogTail,
    /// The Landlock restrictions that the kernel enforces.
    pub(crate) landlock: Landlock,
    /// Its memory mappings, if it reports them.
    pub(crate) mappings: Option<Mappings>,
}

/// Starts a process. `tell` sends the first message on the first channel, with the second channel,
/// on which the process asks about connections. Blocks until the process has replied.
///
/// # Errors
/// Fails if the process does not start; it has then ended.
pub(crate) fn launch(
    launch: Launch<'_>,
    tell: impl FnOnce(&Channel, &Channel) -> io::Result<()>,
) -> Result<Launched, StartError> {
    let failed = |action: String| move |source| StartError::Io { action, source };
    let pairs = Channel::pair().and_then(|control| Ok((control, Channel::pair()?)));
    let ((control, theirs), (policy, asking)) =
        pairs.map_err(failed(format!("create sockets for {}", launch.who)))?;
    let output = if launch.console.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = Command::new(launch.program)
        .args(launch.arguments)
        .arg(launch.name)
        .arg0(launch.shown_as)
        .env_clear()
        .stdin(Stdio::from(theirs.into_fd()))
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed(format!("start `{}`", launch.program.display())))?;
    let mut words = LogTail::default();
    let told = (|| {
        if let (Some(pipe), Some(console)) = (child.stdout.take(), launch.console) {
            follow(pipe, console)?;
        }
        if let Some(pipe) = child.stderr.take() {
            let tail = Arc::new(Mutex::new(Tail::new(WORDS_TAIL_BYTES)));
            words.reader = Some(follow(pipe, Arc::clone(&tail))?);
            words.tail = Some(tail);
        }
        decide(policy, launch.on_guest_connect)?;
        tell(&control, &asking)
    })();
    drop(asking);
    let started = match told {
        Ok(()) => wait_for_start(&control),
        // It exited before it read anything; its exit status is more informative.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(String::new()),
        Err(e) => Err(format!("it does not take its first message: {e}")),
    };
    let (landlock, files) = started.map_err(|reason| {
        // It has exited, or has no state to lose yet.
        let _ = child.kill();
        let status = child.wait().ok();
        StartError::Process(match (reason.is_empty(), status) {
            (true, Some(status)) => describe(launch.who, status, &words.last()),
            _ => reason,
        })
    })?;
    let mappings = files.into_iter().next().map(Mappings::of);
    Ok(Launched { control, child, words, landlock, mappings })
}

/// Opens a stream to a port of the guest; the process gets the other end.
///
/// # Errors
/// Fails if there are no descriptors left, if too many streams are open, or if the process is gone.
pub(crate) fn connect(
    control: &Channel,
    counters: &Counters,
    port: u32,
) -> Result<UnixStream, ConnectError> {
    // The process silently closes streams above the limit.
    let open = usize::try_from(counters.get(Counter::VsockConnections)).unwrap_or(usize::MAX);
    if open >= CONNECTIONS_MAX {
        return Err(ConnectError::TooMany);
    }
    let (ours, theirs) =
        UnixStream::pair().map_err(|source| ConnectError::SocketPair { port, source })?;
    control.send(&ToVmm::Connect { port }, &[theirs.as_fd()]).map_err(|_| ConnectError::Gone)?;
    Ok(ours)
}

/// A process id, until the process is reaped.
#[derive(Debug)]
pub(crate) struct Process(Mutex<Option<u32>>);

impl Process {
    /// The id of a child that is not reaped yet.
    pub(crate) fn of(child: &Child) -> Self {
        Self(Mutex::new(Some(child.id())))
    }

    /// The process id.
    pub(crate) fn id(&self) -> Option<u32> {
        *lock(&self.0)
    }

    /// Kills the process.
    pub(crate) fn kill(&self) {
        if let Some(process) = *lock(&self.0)
            && let Ok(pid) = i32::try_from(process)
        {
            // Fails only if the process has exited; it is not reaped yet, so its id is not reused.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Waits for the process and reaps it; afterwards its id is not signalled.
    pub(crate) fn reap(&self, child: &mut Child) -> Option<ExitStatus> {
        // Wait without reaping first, so that the id stays valid while `kill` may use it.
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while matches!(waitid(Id::Pid(pid), flags), Err(nix::errno::Errno::EINTR)) {}
        let mut process = lock(&self.0);
        *process = None;
        child.wait().ok()
    }
}

/// Waits for the first message of a process; returns its Landlock restrictions and the files sent
/// with the message. An empty error means that it exited without a message.
fn wait_for_start(control: &Channel) -> Result<(Landlock, Vec<OwnedFd>), String> {
    let bounded = |timeout| control.set_timeout(timeout).map_err(|e| e.to_string());
    bounded(Some(START_TIMEOUT))?;
    match control.receive::<FromVmm>() {
        Ok(Some((FromVmm::Started { landlock }, files))) => {
            bounded(None).map(|()| (landlock, files))
        }
        Ok(Some((FromVmm::Failed { reason }, _))) => Err(reason),
        Ok(Some((other, _))) => Err(format!("its first word was {other:?}")),
        Ok(None) => Err(String::new()),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            Err(format!("it said nothing for {} s", START_TIMEOUT.as_secs()))
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Answers a process's requests about connections that the guest opens.
fn decide(policy: Channel, on_guest_connect: OnGuestConnect) -> io::Result<()> {
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

/// Describes how a process ended that did not report it, with its last error messages.
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
