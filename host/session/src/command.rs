//! Processes in the guest.

use std::time::Duration;

use wire::{Channel, ExitStatus, Reply, Request, Spawn, Stdin, TerminalSize};

use crate::{
    Incoming, Session, SessionError,
    connection::{DataSender, Stream},
};

/// The most output that [`Command::output`] keeps of each stream; the rest is
/// dropped from the front, because errors stand at the end. The largest output
/// that is parsed (a partition's tables, `dpkg` lists) is well below 1 MiB.
const OUTPUT_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// The exit status.
    pub status: ExitStatus,
    /// Processor time of the process and its children.
    pub cpu: Duration,
}

/// A process in the guest.
#[derive(Debug)]
pub struct Child {
    session: Session,
    stream: Stream,
    input: Option<DataSender>,
}

/// Something that a child did.
#[derive(Debug)]
pub enum ChildEvent {
    /// Bytes on an output.
    Output(Channel, Vec<u8>),
    /// The process has ended; nothing follows.
    Exited(Exited),
}

/// A finished process with its output.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// The end of its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: Vec<u8>,
}

impl Session {
    /// A command of the guest: a program and its arguments, to be configured and started
    /// as with [`std::process::Command`]. Its environment is empty, its working directory
    /// `/`, its standard input `/dev/null`.
    pub fn command<W: AsRef<str>>(&self, argv: impl IntoIterator<Item = W>) -> Command {
        let argv = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let spawn = Spawn { argv, cwd: "/".to_owned(), ..Spawn::default() };
        Command { session: self.clone(), spawn, input: Vec::new() }
    }
}

/// A process to start in the guest; made by [`Session::command`].
#[derive(Debug, Clone)]
#[must_use = "a command does nothing until it is started"]
pub struct Command {
    session: Session,
    spawn: Spawn,
    input: Vec<u8>,
}

impl Command {
    /// Adds variables to the environment.
    pub fn envs<N: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.spawn.env.extend(variables);
        self
    }

    /// Sets the working directory, as seen inside of the root.
    pub fn current_dir(mut self, path: impl Into<String>) -> Self {
        self.spawn.cwd = path.into();
        self
    }

    /// Makes a directory the root of the process; `None` for the root of the agent.
    pub fn chroot(mut self, root: impl Into<Option<String>>) -> Self {
        self.spawn.root = root.into();
        self
    }

    /// Kills the process group after a time; `None` for no limit.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.spawn.timeout_ms = limit.into().map(millis);
        self
    }

    /// Lets calls that wait for disks succeed at once, see [`Spawn::ignore_sync`].
    pub fn ignore_sync(mut self, ignore: bool) -> Self {
        self.spawn.ignore_sync = ignore;
        self
    }

    /// Sends standard error where standard output goes.
    pub fn merge_stderr(mut self) -> Self {
        self.spawn.merge_stderr = true;
        self
    }

    /// Connects standard input to [`Child::take_input`].
    pub fn pipe_stdin(mut self) -> Self {
        self.spawn.stdin = Stdin::Stream;
        self
    }

    /// Gives the process a terminal of this size for its input and output.
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.spawn.terminal = Some(size);
        self
    }

    /// Writes these bytes to standard input, and ends it.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self.spawn.stdin = if bytes.is_empty() { Stdin::Null } else { Stdin::Stream };
        self
    }

    /// Runs the command as the argument of an interpreter: `bash SCRIPT ARGUMENT…`.
    pub fn interpreted_by(mut self, interpreter: &str) -> Self {
        self.spawn.argv.insert(0, interpreter.to_owned());
        self
    }

    /// The program, as it was given.
    #[must_use]
    pub fn program(&self) -> &str {
        self.spawn.argv.first().map_or("", String::as_str)
    }

    /// The session that the command runs in.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Starts the process.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when it cannot be started.
    pub async fn spawn(self) -> Result<Child, SessionError> {
        let Self { session, spawn, input: bytes } = self;
        let has_input = spawn.stdin == Stdin::Stream || spawn.terminal.is_some();
        let mut stream = session.connection.open(&Request::Spawn(spawn)).await?;
        match stream.next().await? {
            Incoming::Reply(Reply::Started { .. }) => {}
            Incoming::Reply(Reply::Failed(failure)) => return Err(SessionError::Guest(failure)),
            other => {
                return Err(SessionError::Frame(wire::FrameError::Protocol(format!(
                    "{other:?} where a process should have started"
                ))));
            }
        }
        let mut input = has_input.then(|| stream.sender());
        if !bytes.is_empty()
            && let Some(feed) = input.take()
        {
            tokio::spawn(async move {
                feed.send(&bytes).await;
                feed.end().await;
            });
        }
        Ok(Child { session, stream, input })
    }

    /// Runs the process to its end and collects its output.
    ///
    /// # Errors
    /// As [`Command::spawn`]. A bad exit status is no error here.
    pub async fn output(self) -> Result<Output, SessionError> {
        let mut child = self.spawn().await?;
        let (mut stdout, mut stderr) = (Tail::default(), Tail::default());
        loop {
            match child.next().await? {
                ChildEvent::Output(Channel::Stderr, bytes) => stderr.push(&bytes),
                ChildEvent::Output(_, bytes) => stdout.push(&bytes),
                ChildEvent::Exited(Exited { status, .. }) => {
                    return Ok(Output { status, stdout: stdout.into(), stderr: stderr.into() });
                }
            }
        }
    }
}

/// The last [`OUTPUT_KEPT_BYTES`] of a stream.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Cuts at twice the limit, so that each byte is moved once at most however
    /// small the frames are.
    fn push(&mut self, bytes: &[u8]) {
        if self.0.len() + bytes.len() > 2 * OUTPUT_KEPT_BYTES {
            self.cut();
        }
        if self.0.len() + bytes.len() > OUTPUT_KEPT_BYTES {
            // All that is ever needed, and no doubling beyond.
            self.0.reserve_exact((2 * OUTPUT_KEPT_BYTES).saturating_sub(self.0.len()));
        }
        self.0.extend_from_slice(bytes);
    }

    fn cut(&mut self) {
        self.0.drain(..self.0.len().saturating_sub(OUTPUT_KEPT_BYTES));
    }
}

impl From<Tail> for Vec<u8> {
    fn from(mut tail: Tail) -> Self {
        tail.cut();
        tail.0
    }
}

/// Feeds a child's standard input or terminal.
#[derive(Debug, Clone)]
pub struct ChildInput(DataSender);

impl ChildInput {
    /// Sends bytes; `false` when the child no longer takes any.
    pub async fn send(&self, bytes: &[u8]) -> bool {
        self.0.send(bytes).await
    }

    /// Ends the input: the child reads an end of file.
    pub async fn end(&self) {
        self.0.end().await;
    }
}

/// Controls a child's terminal from elsewhere while its output is being read.
#[derive(Debug, Clone)]
pub struct ChildControl {
    session: Session,
    stream: u32,
}

impl ChildControl {
    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// When the guest is gone.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), SessionError> {
        match self.session.perform(&Request::Resize { stream: self.stream, size }).await {
            Err(SessionError::Guest(_)) => Ok(()),
            other => other,
        }
    }
}

impl Child {
    /// Takes the handle that feeds standard input, the first time; `None` when
    /// input is not a stream.
    pub fn take_input(&mut self) -> Option<ChildInput> {
        self.input.take().map(ChildInput)
    }

    /// A handle for the size of the terminal.
    #[must_use]
    pub fn control(&self) -> ChildControl {
        ChildControl { session: self.session.clone(), stream: self.stream.id() }
    }

    /// Waits for what the child does next.
    ///
    /// # Errors
    /// When the guest is gone.
    pub async fn next(&mut self) -> Result<ChildEvent, SessionError> {
        loop {
            match self.stream.next().await? {
                Incoming::Data(channel, bytes) => return Ok(ChildEvent::Output(channel, bytes)),
                Incoming::End | Incoming::Reply(Reply::Started { .. }) => {}
                Incoming::Reply(Reply::Exited { status, cpu_ms }) => {
                    let cpu = Duration::from_millis(cpu_ms);
                    return Ok(ChildEvent::Exited(Exited { status, cpu }));
                }
                Incoming::Reply(Reply::Failed(failure)) => {
                    return Err(SessionError::Guest(failure));
                }
                Incoming::Reply(other) => return Err(SessionError::unexpected(&other)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_output_is_kept() {
        // Twice the limit, and as much again while the vector grows.
        let kept = memory_bound::within(4 * OUTPUT_KEPT_BYTES as u64, || {
            let mut tail = Tail::default();
            for number in 0..12 * OUTPUT_KEPT_BYTES / 1000 {
                tail.push(&[u8::try_from(number % 251).unwrap(); 1000]);
            }
            tail.push(b"the error");
            Vec::from(tail)
        });
        assert_eq!(kept.len(), OUTPUT_KEPT_BYTES);
        assert!(kept.ends_with(b"the error"));
    }
}
