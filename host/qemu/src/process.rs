//! The QEMU process: one thread starts, watches and reaps it.
//!
//! The kernel sends the parent-death signal when the *thread* that started a process ends, so that
//! thread must live as long as QEMU; a worker of an async runtime may not. The thread meanwhile
//! reads the console; a second one reads QEMU's standard error.

use std::{
    ffi::OsString,
    io::{self, PipeReader, Read, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::PathBuf,
    process::{self, Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use confine::{Confinement, Landlock, Paths, SystemCalls};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    errno::Errno,
    sys::wait::{Id, WaitPidFlag, waitid},
    unistd::{Pid, SysconfVar, sysconf},
};
use tokio::sync::oneshot;

use crate::{
    child::{CHILD_VERB, Orders},
    console::{TAIL_MAX_BYTES, Tail, follow},
    needs,
};

/// The highest of the standard descriptors.
pub(crate) const LAST_STANDARD_FD: i32 = 2;
/// Maximum size of the report of a starting QEMU.
const REPORT_MAX_BYTES: u64 = 64 << 10;
/// Time limit for a killed QEMU to free gigabytes of memory.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// The index of the user time after the process name in `/proc/PID/stat`.
const USER_TIME_FIELD: usize = 11;

/// The parameters of starting QEMU.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The program that becomes QEMU through [`crate::exec_child`].
    pub(crate) helper: PathBuf,
    /// The QEMU program.
    pub(crate) program: PathBuf,
    /// QEMU's arguments.
    pub(crate) args: Vec<OsString>,
    /// Inherited descriptors beside the standard streams, numbered from 3.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Paths that it may open itself.
    pub(crate) paths: Paths,
    /// Maximum size of any file that it writes.
    pub(crate) file_bytes: u64,
    /// The standard input of QEMU.
    pub(crate) input: Input,
    /// Kept bytes of the console.
    pub(crate) console_max_bytes: usize,
}

/// QEMU's standard input, which is the guest's keyboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// /dev/null.
    Null,
    /// A pipe that [`Process::send`] writes to.
    Pipe,
    /// The terminal of this process, which also gets its standard output and error.
    Terminal,
}

/// The exit of QEMU.
#[derive(Debug, Clone)]
pub(crate) struct Exit {
    /// The exit status, or why it is unknown.
    pub(crate) status: Result<ExitStatus, String>,
    /// The tail of its standard error.
    pub(crate) complaint: String,
}

/// A running QEMU.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    child: Arc<Watched>,
    /// The guest's serial console.
    pub(crate) console: Tail,
    /// Its confinement; `None` if it ended before it reported that.
    pub(crate) confinement: Option<Confinement>,
    pid: u32,
}

impl Process {
    /// Starts QEMU. `on_exit` is called once, on the watching thread, after the process is reaped
    /// and both streams are read to their ends.
    ///
    /// # Errors
    /// Fails if a process or thread cannot be created.
    pub(crate) async fn start(
        launch: Launch,
        on_exit: impl FnOnce(Exit) + Send + 'static,
    ) -> io::Result<Self> {
        let (started, when_started) = oneshot::channel();
        let console = Tail::new(launch.console_max_bytes);
        let tail = console.clone();
        thread::Builder::new()
            .name("qemu".to_owned())
            .spawn(move || watch(launch, &tail, started, on_exit))?;
        let (child, pid, landlock) = when_started.await.map_err(io::Error::other)??;
        let confinement = landlock.map(|landlock| Confinement {
            process: "QEMU".to_owned(),
            landlock,
            system_calls: SystemCalls::Refused,
        });
        Ok(Self { child, console, confinement, pid })
    }

    /// Kills QEMU. Has no effect if it has ended.
    pub(crate) fn kill(&self) {
        self.child.kill();
    }

    /// Writes to QEMU's standard input. Blocks while the guest does not read.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let mut input = self.child.input.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        input.as_mut().ok_or_else(gone)?.write_all(bytes)
    }

    /// Waits until QEMU is reaped. Blocks; call it after [`Process::kill`].
    pub(crate) fn wait_gone(&self) {
        let guard = self.child.lock();
        let waited = self.child.gone.wait_timeout_while(guard, GONE_LIMIT, |c| c.is_some());
        if waited.is_ok_and(|(_, timeout)| timeout.timed_out()) {
            tracing::warn!(pid = self.pid, "QEMU does not end although it was killed");
        }
    }

    /// CPU time of QEMU in milliseconds, including the guest's; `None` once it has ended.
    pub(crate) fn cpu_ms(&self) -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
        ticks(&stat)?.checked_mul(1000)?.checked_div(u64::try_from(per_second).ok()?)
    }

    /// Resident memory in KiB, including the guest's; `None` once it has ended.
    pub(crate) fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

/// The child until it is reaped, with a notification of that.
#[derive(Debug)]
struct Watched {
    child: Mutex<Option<Child>>,
    input: Mutex<Option<ChildStdin>>,
    gone: Condvar,
}

impl Watched {
    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&self) {
        if let Some(child) = self.lock().as_mut()
            && let Err(cause) = child.kill()
        {
            tracing::debug!(%cause, "cannot kill QEMU");
        }
    }

    /// Waits for the exit without a lock, then reaps under the lock, so that `kill` never signals a
    /// reused process id.
    fn reap(&self, pid: u32) -> io::Result<ExitStatus> {
        let pid = i32::try_from(pid).map_err(io::Error::other)?;
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while let Err(cause) = waitid(Id::Pid(Pid::from_raw(pid)), flags) {
            if cause != Errno::EINTR {
                return Err(cause.into());
            }
        }
        let child = self.lock().take();
        let status = child.ok_or_else(|| io::Error::other("reaped by another thread"))?.wait();
        self.gone.notify_all();
        status
    }
}

/// The user and system time in `/proc/PID/stat`, in clock ticks. The process name may contain
/// anything, so fields are counted after its last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(USER_TIME_FIELD);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

type Started = oneshot::Sender<io::Result<(Arc<Watched>, u32, Option<Landlock>)>>;

/// Starts, watches and reaps QEMU; runs on its own thread.
fn watch(launch: Launch, console: &Tail, started: Started, on_exit: impl FnOnce(Exit)) {
    let (mut child, report) = match spawn(launch) {
        Ok(spawned) => spawned,
        Err(cause) => {
            let _ = started.send(Err(cause));
            return;
        }
    };
    let pid = child.id();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let child = Arc::new(Watched {
        input: Mutex::new(child.stdin.take()),
        child: Mutex::new(Some(child)),
        gone: Condvar::new(),
    });
    let complaint = Tail::new(TAIL_MAX_BYTES);
    thread::scope(|scope| {
        if let Some(stderr) = stderr {
            let complaint = &complaint;
            scope.spawn(move || follow(stderr, complaint));
        }
        if started.send(Ok((Arc::clone(&child), pid, landlock(report)))).is_err() {
            // The caller is gone.
            child.kill();
        }
        if let Some(stdout) = stdout {
            follow(stdout, console);
        }
    });
    let status = child.reap(pid).map_err(|cause| cause.to_string());
    on_exit(Exit { status, complaint: complaint.text() });
}

/// Reads the report of the process before it becomes QEMU, which ends then.
fn landlock(report: PipeReader) -> Option<Landlock> {
    let mut text = Vec::new();
    report.take(REPORT_MAX_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn spawn(launch: Launch) -> io::Result<(Child, PipeReader)> {
    let (report, told) = io::pipe()?;
    let mut mappings = Vec::new();
    let mut last_fd = LAST_STANDARD_FD;
    for parent_fd in launch.descriptors.into_iter().chain([told.into()]) {
        last_fd += 1;
        mappings.push(FdMapping { parent_fd, child_fd: last_fd });
    }
    let orders = Orders {
        parent: i32::try_from(process::id()).map_err(io::Error::other)?,
        report_fd: last_fd,
        file_bytes: launch.file_bytes,
        paths: launch.paths,
    };
    let mut command = Command::new(launch.helper);
    command
        .arg(CHILD_VERB)
        .arg(serde_json::to_string(&orders)?)
        .arg(std::path::absolute(launch.program)?)
        .args(launch.args)
        .env_clear()
        .envs(needs::kept())
        .current_dir("/");
    if launch.input == Input::Terminal {
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    } else {
        let input = if launch.input == Input::Pipe { Stdio::piped() } else { Stdio::null() };
        // Ctrl-C on the terminal is for vbuild, which then ends QEMU itself.
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    }
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    Ok((command.spawn()?, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 21 4 0 0 20 0 1 0 100 1 1";
        assert_eq!(ticks(stat), Some(25));
        assert_eq!(ticks("7 (qemu) S 1"), None);
    }
}
