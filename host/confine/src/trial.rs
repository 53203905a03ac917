//! Attempts that a test makes from inside a confined process: each works in an ordinary process of
//! the same user, and must fail in a confined one.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixStream},
    },
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use nix::{
    sys::{ptrace, signal},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// The first argument by which vbuild's `main` recognizes that it must call [`in_place`].
pub const TRIAL_VERB: &str = "__trial";

/// Makes one attempt in place of a program that was to be started confined, and writes the outcome
/// to the standard output as JSON. `args` are the arguments after [`TRIAL_VERB`]: the attempt as
/// JSON.
#[must_use]
pub fn in_place(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let attempt = args.next().and_then(|text| serde_json::from_str::<Attempt>(text.to_str()?).ok());
    let Some(attempt) = attempt else { return ExitCode::FAILURE };
    let outcome = match attempt.carry_out() {
        Ok(()) => Outcome::Worked,
        Err(error) => Outcome::Refused(error.to_string()),
    };
    let written = serde_json::to_string(&outcome)
        .map_err(io::Error::from)
        .and_then(|text| writeln!(io::stdout(), "{text}"));
    ExitCode::from(u8::from(written.is_err()))
}

/// One forbidden action to attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Attempt {
    /// Reads a file.
    Read(PathBuf),
    /// Creates a file.
    Write(PathBuf),
    /// Lists a directory.
    List(PathBuf),
    /// Truncates a file by path.
    Truncate(PathBuf),
    /// Changes the mode of a file.
    ChangeMode(PathBuf),
    /// Connects to a TCP port.
    Tcp(SocketAddr),
    /// Sends a datagram.
    Udp(SocketAddr),
    /// Connects to a Unix socket by path.
    UnixPath(PathBuf),
    /// Connects to an abstract Unix socket.
    UnixAbstract(String),
    /// Traces a process.
    Trace(i32),
    /// Signals a process (SIGURG, which is ignored).
    Signal(i32),
    /// Changes a resource limit of a process.
    Limit(i32),
    /// Reads the environment of a process.
    Environment(i32),
    /// Closes a descriptor that must not be open.
    Close(i32),
    /// Creates a user namespace.
    Namespace,
    /// Starts a program.
    Run(PathBuf),
}

/// The result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// It succeeded, which is a defect.
    Worked,
    /// It failed, with the reason.
    Refused(String),
    /// The process was killed, with a description.
    Killed(String),
}

impl Attempt {
    /// Makes the attempt.
    ///
    /// # Errors
    /// Fails with the reason, as it should in a confined process.
    pub fn carry_out(&self) -> io::Result<()> {
        match self {
            Self::Read(path) => fs::read(path).map(drop),
            Self::Write(path) => fs::write(path, "written"),
            Self::List(path) => fs::read_dir(path).map(drop),
            Self::Truncate(path) => nix::unistd::truncate(path.as_path(), 0).map_err(Into::into),
            Self::ChangeMode(path) => {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                fs::set_permissions(path, mode)
            }
            Self::Tcp(address) => TcpStream::connect(address).map(drop),
            Self::Udp(address) => {
                UdpSocket::bind("127.0.0.1:0")?.send_to(b"here", address).map(drop)
            }
            Self::UnixPath(path) => UnixStream::connect(path).map(drop),
            Self::UnixAbstract(name) => {
                UnixStream::connect_addr(&UnixAddr::from_abstract_name(name)?).map(drop)
            }
            Self::Trace(pid) => trace(Pid::from_raw(*pid)),
            Self::Signal(pid) => {
                signal::kill(Pid::from_raw(*pid), signal::Signal::SIGURG).map_err(Into::into)
            }
            Self::Limit(pid) => limit(*pid),
            Self::Environment(pid) => fs::read(format!("/proc/{pid}/environ")).map(drop),
            Self::Close(number) => nix::unistd::close(*number).map_err(Into::into),
            Self::Namespace => {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).map_err(Into::into)
            }
            Self::Run(program) => {
                let status = Command::new(program).stdin(Stdio::null()).status()?;
                if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
            }
        }
    }
}

/// Attaches as a tracer and detaches at once.
fn trace(pid: Pid) -> io::Result<()> {
    ptrace::seize(pid, ptrace::Options::empty())?;
    ptrace::interrupt(pid)?;
    nix::sys::wait::waitpid(pid, None)?;
    Ok(ptrace::detach(pid, None)?)
}

/// Sets a limit to its current value, which needs the same permission as lowering it.
fn limit(pid: i32) -> io::Result<()> {
    use rustix::process::{Pid, Resource, getrlimit, prlimit};
    let limit = getrlimit(Resource::Core);
    Ok(prlimit(Pid::from_raw(pid), Resource::Core, limit).map(drop)?)
}
