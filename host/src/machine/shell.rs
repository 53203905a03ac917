//! The user's terminal joined to a process in the guest, with raw mode, the size of the window and
//! every key. It is used by commands that run a process in the guest, and by shells in a build.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Read, Write},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use engine::{Pause, PauseContext, PauseHook};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::termios::{self, SetArg, Termios},
};
use session::{ChildControl, ChildEvent, ChildInput, Command, SessionError};
use wire::{Channel, ExitStatus, TerminalSize};

use crate::error::{CommandError, Kind};

/// Size of the input buffer in bytes.
const INPUT_BYTES: usize = 16 * 1024;
/// The size of terminals that do not report one.
const SIZE_DEFAULT: TerminalSize = TerminalSize { rows: 24, columns: 80 };
/// Interval in milliseconds at which the reader of the terminal checks whether the process has
/// ended.
const LOOK_MS: u16 = 100;

/// An error of a joined process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShellError {
    /// The guest, or the connection to it, failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The output could not be passed on.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
}

impl From<ShellError> for CommandError {
    fn from(error: ShellError) -> Self {
        match error {
            ShellError::Session(error) => error.into(),
            ShellError::Output(_) => Self::new(Kind::Host, error),
        }
    }
}

/// Runs a process that is joined to this terminal, or to these pipes, and returns how it ended. If
/// standard input and output are a terminal, the process gets a terminal, too.
///
/// # Errors
/// Fails if the guest fails or the output cannot be written.
pub(crate) async fn join(command: Command) -> Result<ExitStatus, ShellError> {
    let raw = is_interactive().then(RawTerminal::enter).flatten();
    let command = match &raw {
        Some(_) => command.terminal(terminal_size().unwrap_or(SIZE_DEFAULT)),
        None => command.pipe_stdin(),
    };
    let mut child = command.spawn().await?;
    let ended = Ended::default();
    if let Some(input) = child.take_input() {
        let ends = raw.is_none();
        std::thread::spawn({
            let (handle, ended) = (tokio::runtime::Handle::current(), Arc::clone(&ended.0));
            move || feed(&handle, &input, ends, &ended)
        });
    }
    if raw.is_some() {
        tokio::spawn(follow_size(child.control()));
    }
    loop {
        match child.next().await? {
            ChildEvent::Output(Channel::Stderr, bytes) => write(std::io::stderr(), &bytes)?,
            ChildEvent::Output(_, bytes) => write(std::io::stdout(), &bytes)?,
            ChildEvent::Exited(exited) => return Ok(exited.status),
        }
    }
}

/// Returns the exit status that a shell reports for a process that ended in this way.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    match status {
        ExitStatus::Code(code) => u8::try_from(code).unwrap_or(1),
        ExitStatus::Signal(signal) => u8::try_from(128 + signal).unwrap_or(255),
        ExitStatus::TimedOut => 124,
    }
}

/// Whether standard input and standard output are terminals.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Returns the environment of commands that a user runs in the guest by hand.
pub(crate) fn environment() -> Vec<(String, String)> {
    let mut env: BTreeMap<&str, String> = BTreeMap::from([
        ("PATH", plan::PROGRAM_PATH.to_owned()),
        ("HOME", "/root".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        // No udev runs in the guest, and LVM would wait for it.
        ("DM_DISABLE_UDEV", "1".to_owned()),
    ]);
    if let Ok(term) = std::env::var("TERM") {
        env.insert("TERM", term);
    }
    env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn write(mut to: impl Write, bytes: &[u8]) -> Result<(), ShellError> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(ShellError::Output)
}

/// A flag that is set when this value is dropped: the process has ended.
#[derive(Default)]
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Passes standard input on until its end, or until the process has ended: later input is not for
/// this process.
fn feed(handle: &tokio::runtime::Handle, input: &ChildInput, ends: bool, ended: &AtomicBool) {
    let mut stdin = std::io::stdin();
    let mut buffer = vec![0; INPUT_BYTES];
    loop {
        let mut wanted = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wanted, LOOK_MS) {
            _ if ended.load(Ordering::Relaxed) => return,
            Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
            Ok(_) => {}
            Err(_) => break,
        }
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

/// Reports changes of the terminal's size to the guest.
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

/// Returns the size of the user's terminal, if it reports one.
fn terminal_size() -> Option<TerminalSize> {
    let (terminal_size::Width(columns), terminal_size::Height(rows)) =
        terminal_size::terminal_size()?;
    Some(TerminalSize { rows, columns })
}

/// The terminal in raw mode, which ends when this value is dropped.
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

/// A hook that opens a shell in the tools root, with the path of the image in its environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shell {
    retry: Arc<AtomicBool>,
    /// The command that runs instead of an interactive shell and the question what to do next.
    command: Option<String>,
}

impl Shell {
    /// Creates a hook that runs `command` with bash; without one, it opens an interactive shell.
    pub(crate) fn running(command: Option<String>) -> Self {
        Self { command, ..Self::default() }
    }

    /// Returns a pause with a shell after this number of stages; the build ends with it.
    pub(crate) fn after(stages: usize) -> Pause {
        Self::default().visit(Some(stages), Vec::new(), false)
    }

    /// Returns a pause with this shell after a number of stages, before some stages, or after a
    /// failure.
    pub(crate) fn visit(
        &self,
        after: Option<usize>,
        before: Vec<usize>,
        on_failure: bool,
    ) -> Pause {
        Pause { hook: Arc::new(self.clone()), after, before, on_failure, from: None }
    }

    /// Whether the user wants to try the build again.
    pub(crate) fn wants_retry(&self) -> bool {
        self.retry.load(Ordering::Relaxed)
    }

    /// Asks what to do: the user types `r` or `s`; the end of the input means to stop.
    fn ask(&self) {
        let mut answer = String::new();
        while is_interactive() {
            let asked = write(std::io::stderr(), b"[r]etry the build or [s]top? ");
            if asked.is_err() || !matches!(std::io::stdin().read_line(&mut answer), Ok(1..)) {
                return;
            }
            match answer.trim() {
                "r" | "retry" => return self.retry.store(true, Ordering::Relaxed),
                "s" | "stop" => return,
                _ => answer.clear(),
            }
        }
    }
}

#[async_trait::async_trait]
impl PauseHook for Shell {
    async fn inspect(&self, place: PauseContext<'_>) {
        let argv: Vec<String> = match &self.command {
            Some(command) => ["/bin/bash", "-c", command].map(str::to_owned).to_vec(),
            None if place.failed && !is_interactive() => return,
            None => ["/bin/bash", "--norc", "--noprofile"].map(str::to_owned).to_vec(),
        };
        let seen = |path: &str| path.strip_prefix(place.tools).unwrap_or(path).to_owned();
        let image = place.image.as_deref().map(seen);
        let (words, next) = match place.failed {
            true => ("failed in", "a shell; when it ends, the build can be tried again"),
            false => ("at", "a shell; the build goes on when it ends"),
        };
        let stage = &place.stage.name;
        let mut env = environment();
        env.push(("PS1".into(), format!("[vbuild {words} {stage}] \\w# ")));
        env.extend(image.clone().map(|image| ("VBUILD_IMAGE".to_owned(), image)));
        let what = self.command.as_deref().unwrap_or(next);
        let said = write(std::io::stderr(), format!("vbuild {words} {stage}: {what}\n").as_bytes());
        let command = place
            .session
            .command(argv)
            .envs(env)
            .current_dir(image.unwrap_or_else(|| "/".into()))
            .chroot(place.tools.to_owned());
        if let Err(error) = said.and(join(command).await) {
            tracing::warn!(%error, "the shell has ended");
        }
        if place.failed && self.command.is_none() {
            let shell = self.clone();
            // `ask` blocks while it waits for the user.
            let _ = tokio::task::spawn_blocking(move || shell.ask()).await;
        }
    }
}
