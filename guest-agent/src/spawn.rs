//! Runs processes: one thread per spawn stream starts the process, moves its bytes and reports how
//! it ended.
//!
//! ```text
//!   launch ─► Started ─► poll { stdout, stderr, stdin, pidfd, stream }
//!                          │ process has ended: reap, start the grace
//!                          ▼
//!            output at its end, or the grace is over ─► Exited   (see `pump`)
//! ```

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use wire::{Failure, Reply, Spawn, Stdin, TerminalSize};

use crate::failure::{Doing, failure};
use crate::process::{Ends, kill_session};
use crate::pump::Pump;
use crate::stream::Stream;
use crate::sys::{self, Launch, LaunchStep};

/// The search path of programs if the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The ends of the standard streams that the process gets.
#[derive(Debug)]
struct Stdio {
    input: OwnedFd,
    stdout: OwnedFd,
    stderr: Option<OwnedFd>,
}

/// Carries out a spawn request up to its final reply.
pub(crate) fn spawn(stream: &Stream, request: &Spawn) -> Result<Reply, Failure> {
    let name = request.argv.first().ok_or_else(|| failure("run a process", "argv is empty"))?;
    let (ends, stdio) = open_stdio(request).doing(|| format!("open the streams of `{name}`"))?;
    let pid = start(name, request, &stdio)?;
    drop(stdio);
    let started = Instant::now();
    let action = || format!("watch `{name}`");
    let terminal = ends.terminal.then(|| ends.stdout.try_clone()).transpose().doing(action)?;
    stream.process.started(terminal);
    let reply = Reply::Started { pid: pid.as_raw().unsigned_abs() };
    // Errors are ignored: if the host is gone, the stream is aborted and the pump ends the process.
    let _ = stream.reply(&reply);
    let watched = sys::pidfd_open(pid).and_then(|pidfd| {
        let deadline = request.timeout_ms.map(|ms| started + Duration::from_millis(ms));
        Pump::new(stream, ends, pid, deadline).run(&pidfd)
    });
    if watched.is_err() {
        kill_session(pid);
        let _ = stream.process.reap(pid);
    }
    let (status, cpu_ms) = watched.doing(action)?;
    Ok(Reply::Exited { status, cpu_ms })
}

fn c_strings<'a>(
    strings: impl Iterator<Item = &'a str>,
    what: &str,
) -> Result<Vec<CString>, Failure> {
    strings
        .map(|s| CString::new(s).map_err(|_| failure(what, "a string holds a zero byte")))
        .collect()
}

/// Returns the paths to try for a program, as execvp(3) does.
fn programs(name: &str, env: &[(String, String)]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env.iter().rfind(|(key, _)| key == "PATH").map_or(DEFAULT_PATH, |(_, v)| v);
    path.split(':')
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .map(|directory| format!("{directory}/{name}"))
        .collect()
}

fn start(name: &str, request: &Spawn, stdio: &Stdio) -> Result<Pid, Failure> {
    let what = format!("run `{name}`");
    let programs = programs(name, &request.env);
    let programs = c_strings(programs.iter().map(String::as_str), &what)?;
    let argv = c_strings(request.argv.iter().map(String::as_str), &what)?;
    let env: Vec<_> = request.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let env = c_strings(env.iter().map(String::as_str), &what)?;
    let places = c_strings(request.root.iter().chain([&request.cwd]).map(String::as_str), &what)?;
    let (root, cwd) = match places.as_slice() {
        [root, cwd] => (Some(root), cwd),
        [cwd] => (None, cwd),
        _ => return Err(failure(what, "no working directory")),
    };
    let launch = Launch {
        programs: &programs,
        argv: &argv,
        env: &env,
        root: root.map(CString::as_c_str),
        cwd: if cwd.is_empty() { c"/" } else { cwd },
        stdio: [
            stdio.input.as_fd(),
            stdio.stdout.as_fd(),
            stdio.stderr.as_ref().unwrap_or(&stdio.stdout).as_fd(),
        ],
        terminal: request.terminal.is_some(),
        ignore_sync: request.ignore_sync,
    };
    sys::launch(&launch).map_err(|(step, errno)| {
        let action = match step {
            LaunchStep::Clone | LaunchStep::Exec => what,
            LaunchStep::Streams => format!("set up the streams of `{name}`"),
            LaunchStep::Filter => format!("filter the syncs of `{name}`"),
            LaunchStep::Root => {
                format!("enter the root `{}`", request.root.as_deref().unwrap_or("/"))
            }
            LaunchStep::Directory => format!("enter the directory `{}`", request.cwd),
        };
        Failure { action, reason: errno.desc().to_owned(), errno: Some(errno as i32) }
    })
}

fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC)
}

fn nonblocking(fd: OwnedFd) -> nix::Result<OwnedFd> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd)
}

fn open_stdio(request: &Spawn) -> nix::Result<(Ends, Stdio)> {
    if let Some(size) = request.terminal {
        return open_terminal(size);
    }
    let (input_end, input) = match request.stdin {
        Stdin::Null => {
            (None, open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?)
        }
        Stdin::Stream => {
            let (read, write) = pipe()?;
            (Some(nonblocking(write)?), read)
        }
    };
    let (stdout_end, stdout) = pipe()?;
    let (stderr_end, stderr) = match request.merge_stderr {
        true => (None, None),
        false => pipe().map(|(read, write)| (Some(read), Some(write)))?,
    };
    let stderr_end = stderr_end.map(nonblocking).transpose()?;
    let stdout_end = nonblocking(stdout_end)?;
    let ends = Ends { input: input_end, stdout: stdout_end, stderr: stderr_end, terminal: false };
    Ok((ends, Stdio { input, stdout, stderr }))
}

fn open_terminal(size: TerminalSize) -> nix::Result<(Ends, Stdio)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = nix::pty::posix_openpt(flags)?;
    nix::pty::grantpt(&master)?;
    nix::pty::unlockpt(&master)?;
    let slave = open(nix::pty::ptsname_r(&master)?.as_str(), flags, Mode::empty())?;
    let master = nonblocking(OwnedFd::from(master))?;
    sys::set_terminal_size(&master, size.rows, size.columns)?;
    let copy = || slave.try_clone().map_err(|_| Errno::EMFILE);
    let stdio = Stdio { stdout: copy()?, input: slave, stderr: None };
    let input = master.try_clone().map_err(|_| Errno::EMFILE)?;
    Ok((Ends { input: Some(input), stdout: master, stderr: None, terminal: true }, stdio))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_in_the_path_of_the_environment() {
        let env = |path: &str| vec![("PATH".to_owned(), path.to_owned())];
        assert_eq!(programs("/bin/x", &env("/a")), ["/bin/x"]);
        assert_eq!(programs("./x", &[]), ["./x"]);
        assert_eq!(programs("x", &env("/a::/b")), ["/a/x", "./x", "/b/x"]);
        assert_eq!(programs("x", &[]).len(), 6);
        let twice = [env("/a"), env("/b")].concat();
        assert_eq!(programs("x", &twice), ["/b/x"]);
    }
}
