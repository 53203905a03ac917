//! Processes in the guest.

use std::time::Duration;

use wire::{Channel, ExitStatus, Reply, Request, Spawn, Stdin, TerminalSize};

use crate::{
    Incoming, Session, SessionError,
    connection::{DataSender, Stream},
};

/// Maximum output that [`Command::output`] keeps of each stream. Of a longer output the beginning
/// is dropped, because errors are at the end. The largest output that is parsed (partition tables,
/// `dpkg` lists) is well below 1 MiB.
const OUTPUT_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// The exit status and the processor time of a process that has ended.
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

/// An event of a [`Child`].
#[derive(Debug)]
pub enum ChildEvent {
    /// The process has written bytes to one of its outputs.
    Output(Channel, Vec<u8>),
    /// The process has ended. This is the last event.
    Exited(Exited),
}

/// The exit status and the output of a finished process.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// The standard output of the process, or its last 4 MiB.
    pub stdout: Vec<u8>,
    /// The standard error of the process, or its last 4 MiB.
    pub stderr: Vec<u8>,
}

impl Session {
    /// Creates a command that runs in the guest from a program and its arguments, to be configured
    /// and started like a [`std::process::Command`]. By default, its environment is empty, its
    /// working directory is `/`, and its standard input is `/dev/null`.
    pub fn command<W: AsRef<str>>(&self, argv: impl IntoIterator<Item = W>) -> Command {
        let argv = argv.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let spawn = Spawn { argv, cwd: "/".to_owned(), ..Spawn::default() };
        Command { session: self.clone(), spawn, input: Vec::new() }
    }
}

/// A process to start in the guest; created by [`Session::command`].
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

    /// Sets the working directory, a path inside the root of the process.
    pub fn current_dir(mut self, path: impl Into<String>) -> Self {
        self.spawn.cwd = path.into();
        self
    }

    /// Makes a directory the root of the process; `None` for the root of the agent.
    pub fn chroot(mut self, root: impl Into<Option<String>>) -> Self {
        self.spawn.root = root.into();
        self
    }

    /// Sets the time after which the process group is killed; `None` for no limit.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self.spawn.timeout_ms = limit.into().map(millis);
        self
    }

    /// Sets whether calls that wait for disks succeed at once; see [`Spawn::ignore_sync`].
    pub fn ignore_sync(mut self, ignore: bool) -> Self {
        self.spawn.ignore_sync = ignore;
        self
    }

    /// Redirects standard error to standard output.
    pub fn merge_stderr(mut self) -> Self {
        self.spawn.merge_stderr = true;
        self
    }

    /// Connects standard input to the handle that [`Child::take_input`] returns.
    pub fn pipe_stdin(mut self) -> Self {
        self.spawn.stdin = Stdin::Stream;
        self
    }

    /// Gives the process a terminal of this size for its input and output.
    pub fn terminal(mut self, size: TerminalSize) -> Self {
        self.spawn.terminal = Some(size);
        self
    }

    /// Writes these bytes to standard input, and closes it.
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

    /// Returns the program: the first word of the command line.
    #[must_use]
    pub fn program(&self) -> &str {
        self.spawn.argv.first().map_or("", String::as_str)
    }

    /// Returns the session that the command runs in.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Starts the process.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the process cannot be started.
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
    /// Fails if the process cannot be started or the guest is gone. An unsuccessful exit status is
    /// not an error.
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

/// A buffer that keeps the last [`OUTPUT_KEPT_BYTES`] of a stream.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// Appends bytes. The buffer is cut only when it would exceed twice the limit, so each byte is
    /// moved at most once, however small the frames are.
    fn push(&mut self, bytes: &[u8]) {
        if self.0.len() + bytes.len() > 2 * OUTPUT_KEPT_BYTES {
            self.cut();
        }
        if self.0.len() + bytes.len() > OUTPUT_KEPT_BYTES {
            // The maximum size is reserved at once, so that the vector does not double beyond it.
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

/// A handle that sends data to a child's standard input or terminal.
#[derive(Debug, Clone)]
pub struct ChildInput(DataSender);

impl ChildInput {
    /// Sends bytes. Returns `false` if the child does not take any more.
    pub async fn send(&self, bytes: &[u8]) -> bool {
        self.0.send(bytes).await
    }

    /// Ends the input: the child reads an end of file.
    pub async fn end(&self) {
        self.0.end().await;
    }
}

/// A handle that controls a child's terminal while another task reads its output.
#[derive(Debug, Clone)]
pub struct ChildControl {
    session: Session,
    stream: u32,
}

impl ChildControl {
    /// Sets the size of the terminal.
    ///
    /// # Errors
    /// Fails if the guest is gone. If the guest refuses, nothing happens.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), SessionError> {
        match self.session.perform(&Request::Resize { stream: self.stream, size }).await {
            Err(SessionError::Guest(_)) => Ok(()),
            other => other,
        }
    }
}

impl Child {
    /// Takes the handle that sends data to standard input. Returns `None` if it was taken before,
    /// or if standard input is not a stream.
    pub fn take_input(&mut self) -> Option<ChildInput> {
        self.input.take().map(ChildInput)
    }

    /// Returns a handle that sets the size of the terminal.
    #[must_use]
    pub fn control(&self) -> ChildControl {
        ChildControl { session: self.session.clone(), stream: self.stream.id() }
    }

    /// Waits for the next event of the child.
    ///
    /// # Errors
    /// Fails if the guest is gone, or with [`SessionError::Guest`] if it reports a failure.
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
