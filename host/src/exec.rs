//! One command in a fresh appliance, its output and exit status passed through.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Read, Write},
    os::fd::AsFd,
    sync::Arc,
};

use machine::{BlockSize, ConnectDecision, Drive, DriveFormat, DriveSerial, MachineSpec};
use nix::sys::termios::{self, SetArg, Termios};
use session::{BootOptions, ChildControl, ChildEvent, ChildInput, Session};
use wire::{Channel, ExitStatus, Request, Spawn, Stdin, TerminalSize};

use crate::{
    appliance, backend,
    error::{CommandError, Kind},
    network::Network,
    pipeline::{self, Ctx},
    settings::Settings,
};

/// Where the helper drive is, as in a build.
const HELPER: &str = "/helper";
const HELPER_SERIAL: &str = "vbuild-helper";
/// Input is read in pieces of this size.
const INPUT_BYTES: usize = 16 * 1024;

/// Runs a command; gives the exit status to pass on.
///
/// # Errors
/// When vbuild itself fails; a command that fails is no error.
pub async fn exec(settings: &Settings, argv: &[String], ctx: &Ctx) -> Result<u8, CommandError> {
    let held = pipeline::hold_drive(settings)?;
    let build_dir = pipeline::make_build_dir(settings)?;
    let backend = backend::choose(settings, ctx).await?;
    let files = appliance::find_or_build(settings, &backend, &build_dir, ctx).await?;
    let network = Network::new(settings, ctx)?;
    let mut drives = vec![drive(engine::ROOT_SERIAL, files.root.clone(), DriveFormat::Raw, true)?];
    if let Some(held) = &held {
        drives.push(drive(HELPER_SERIAL, held.path.clone(), held.format, false)?);
    }
    let spec = MachineSpec {
        name: "exec".into(),
        vcpus: settings.vcpus,
        memory_mib: settings.memory_mib,
        kernel: files.kernel,
        initrd: files.initrd,
        cmdline: vec![format!("vbuild.root={}", engine::ROOT_SERIAL)],
        drives,
        on_guest_connect: network
            .as_ref()
            .map_or_else(|| Arc::new(|_| ConnectDecision::Refuse) as _, Network::door),
        verbose_console: settings.verbose_console,
        run_dir: build_dir.path().to_owned(),
    };
    let mut cancel = ctx.cancel.clone();
    let stopped = || CommandError::message(Kind::Interrupted, "the command was stopped");
    let options = BootOptions::default();
    let session = tokio::select! {
        booted = session::boot(backend.backend.as_ref(), spec, &options) => {
            booted.map_err(session_error)?
        }
        Ok(_) = cancel.wait_for(|stop| *stop) => return Err(stopped()),
    };
    let outcome = tokio::select! {
        outcome = run(&session, held.is_some(), network.is_some(), argv) => outcome,
        Ok(_) = cancel.wait_for(|stop| *stop) => Err(stopped()),
    };
    // Without a drive nothing in the guest is worth flushing.
    let down =
        tokio::time::timeout(pipeline::SHUTDOWN_GRACE, session.shutdown(held.is_some())).await;
    let status = outcome?;
    match down {
        Ok(Err(error)) if held.is_some() => Err(session_error(error)),
        _ => Ok(status),
    }
}

fn drive(
    serial: &str,
    path: std::path::PathBuf,
    format: DriveFormat,
    read_only: bool,
) -> Result<Drive, CommandError> {
    let serial = DriveSerial::new(serial).map_err(|e| CommandError::new(Kind::Exec, e))?;
    let durable = !read_only;
    Ok(Drive { serial, path, format, read_only, durable, block_size: BlockSize::B512 })
}

fn session_error(error: session::SessionError) -> CommandError {
    let tail = error.console_tail().map(str::to_owned).filter(|tail| !tail.trim().is_empty());
    CommandError::new(Kind::Exec, error)
        .maybe_hint(tail.map(|tail| format!("the end of the guest's console:\n{tail}")))
}

async fn run(
    session: &Session,
    helper: bool,
    network: bool,
    argv: &[String],
) -> Result<u8, CommandError> {
    if network {
        session.perform(&Request::NetworkUp {}).await.map_err(session_error)?;
    }
    if helper {
        mount_helper(session).await?;
    }
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let raw = interactive.then(RawTerminal::enter).flatten();
    let spawn = Spawn {
        argv: argv.to_vec(),
        env: environment(),
        cwd: "/".into(),
        stdin: if interactive { Stdin::Null } else { Stdin::Stream },
        terminal: raw.as_ref().and_then(|_| terminal_size()),
        ..Spawn::default()
    };
    let mut child = session.spawn(spawn).await.map_err(session_error)?;
    if let Some(input) = child.take_input() {
        let ends = raw.is_none();
        std::thread::spawn({
            let handle = tokio::runtime::Handle::current();
            move || feed(&handle, &input, ends)
        });
    }
    if raw.is_some() {
        tokio::spawn(follow_size(child.control(session)));
    }
    loop {
        match child.next().await.map_err(session_error)? {
            ChildEvent::Output(Channel::Stderr, bytes) => write(std::io::stderr(), &bytes)?,
            ChildEvent::Output(_, bytes) => write(std::io::stdout(), &bytes)?,
            ChildEvent::Exited(exited) => {
                return Ok(match exited.status {
                    ExitStatus::Code(code) => u8::try_from(code).unwrap_or(1),
                    ExitStatus::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
                    ExitStatus::TimedOut => 124,
                });
            }
        }
    }
}

fn environment() -> Vec<(String, String)> {
    let mut env: BTreeMap<&str, String> = BTreeMap::from([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME", "/root".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
    ]);
    if let Ok(term) = std::env::var("TERM") {
        env.insert("TERM", term);
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The first partition of the drive, or the whole drive without any.
async fn mount_helper(session: &Session) -> Result<(), CommandError> {
    let devices = session.block_devices().await.map_err(session_error)?;
    let mut found: Vec<_> =
        devices.iter().filter(|device| device.serial == HELPER_SERIAL).collect();
    found.sort_by_key(|device| device.partition.unwrap_or(u32::MAX));
    let device = found.first().ok_or_else(|| {
        CommandError::message(Kind::Exec, "the guest does not see the helper drive")
    })?;
    let make = wire::FileOperation::MakeDirectory {
        root: "/".into(),
        path: HELPER.into(),
        mode: 0o755,
        parents: true,
    };
    session.file(make).await.map_err(session_error)?;
    let mount = Spawn {
        argv: ["mount", "-o", "noatime", &device.path, HELPER].map(String::from).to_vec(),
        env: environment(),
        cwd: "/".into(),
        ..Spawn::default()
    };
    let output = session.output(mount, b"").await.map_err(session_error)?;
    if output.status.success() {
        return Ok(());
    }
    Err(CommandError::message(
        Kind::Usage,
        format!(
            "no filesystem that can be mounted was found on the drive: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
    )
    .hint("`vbuild cache create` makes a drive that has one"))
}

fn write(mut to: impl Write, bytes: &[u8]) -> Result<(), CommandError> {
    to.write_all(bytes)
        .and_then(|()| to.flush())
        .map_err(|error| CommandError::new(Kind::Exec, error).context("cannot write the output"))
}

/// Passes standard input on until its end. The thread may outlive the command:
/// a read of a terminal cannot be interrupted, and the process ends anyway.
fn feed(handle: &tokio::runtime::Handle, input: &ChildInput, ends: bool) {
    let mut stdin = std::io::stdin();
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if !handle.block_on(input.send(&buffer[..count])) {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if ends {
        handle.block_on(input.end());
    }
}

/// Tells the guest when the terminal changes its size.
async fn follow_size(control: ChildControl) {
    let kind = tokio::signal::unix::SignalKind::window_change();
    let Ok(mut changes) = tokio::signal::unix::signal(kind) else { return };
    while changes.recv().await.is_some() {
        if let Some(size) = terminal_size()
            && control.resize(size).await.is_err()
        {
            return;
        }
    }
}

/// The size of the user's terminal.
fn terminal_size() -> Option<TerminalSize> {
    let (terminal_size::Width(columns), terminal_size::Height(rows)) =
        terminal_size::terminal_size()?;
    Some(TerminalSize { rows, columns })
}

/// The terminal in raw mode for as long as this lives.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}
