//! Processes in the guest.

use std::time::Duration;

use tokio::sync::mpsc;
use wire::{Channel, ExitStatus, Reply, Request, Spawn, Stdin, TerminalSize};

use crate::{
    Incoming, Session, SessionError,
    connection::{DataSender, Stream},
};

/// The most output that [`Session::output`] keeps of each stream; the rest is
/// dropped from the front, because errors stand at the end.
const OUTPUT_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// Its status.
    pub status: ExitStatus,
    /// Processor time of it and its children.
    pub cpu: Duration,
}

/// A process in the guest.
#[derive(Debug)]
pub struct Child {
    stream: Stream,
    input: Option<DataSender>,
}

/// What a child does next.
#[derive(Debug)]
pub enum ChildEvent {
    /// Bytes on an output.
    Output(Channel, Vec<u8>),
    /// It has ended; nothing follows.
    Exited(Exited),
}

/// A finished process with its output.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its status.
    pub status: ExitStatus,
    /// The end of its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error.
    pub stderr: Vec<u8>,
}

impl Session {
    /// Starts a process.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when it cannot be started.
    pub async fn spawn(&self, spawn: Spawn) -> Result<Child, SessionError> {
        let input = spawn.stdin == Stdin::Stream || spawn.terminal.is_some();
        let mut stream = self.connection.open(&Request::Spawn(spawn)).await?;
        match stream.next().await? {
            Incoming::Reply(Reply::Started { .. }) => {}
            Incoming::Reply(Reply::Failed(failure)) => return Err(SessionError::Guest(failure)),
            other => {
                return Err(SessionError::Frame(wire::FrameError::Protocol(format!(
                    "{other:?} where a process should have started"
                ))));
            }
        }
        let input = input.then(|| stream.sender());
        Ok(Child { stream, input })
    }

    /// Runs a process to its end and collects its output.
    ///
    /// # Errors
    /// As [`Session::spawn`]. A bad exit status is no error here.
    pub async fn output(&self, spawn: Spawn, input: &[u8]) -> Result<Output, SessionError> {
        let spawn =
            Spawn { stdin: if input.is_empty() { Stdin::Null } else { Stdin::Stream }, ..spawn };
        let mut child = self.spawn(spawn).await?;
        let feed = child.take_input();
        let bytes = input.to_vec();
        if let Some(feed) = feed {
            tokio::spawn(async move {
                feed.send(&bytes).await;
                feed.end().await;
            });
        }
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match child.next().await? {
                ChildEvent::Output(channel, bytes) => {
                    let kept = if channel == Channel::Stderr { &mut stderr } else { &mut stdout };
                    kept.extend_from_slice(&bytes);
                    if kept.len() > OUTPUT_KEPT_BYTES {
                        kept.drain(..kept.len() - OUTPUT_KEPT_BYTES);
                    }
                }
                ChildEvent::Exited(exited) => {
                    return Ok(Output { status: exited.status, stdout, stderr });
                }
            }
        }
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

    /// End of file.
    pub async fn end(&self) {
        self.0.end().await;
    }
}

/// Signals a child from elsewhere while its output is being read.
#[derive(Debug, Clone)]
pub struct ChildControl {
    session: Session,
    stream: u32,
}

impl ChildControl {
    /// Sends a signal to the process group.
    ///
    /// # Errors
    /// When the guest is gone.
    pub async fn kill(&self, signal: i32) -> Result<(), SessionError> {
        let request = Request::Kill { stream: self.stream, signal, group: true };
        match self.session.perform(&request).await {
            // A process that has ended meanwhile is what the caller wanted.
            Err(SessionError::Guest(_)) => Ok(()),
            other => other,
        }
    }

    /// Tells a terminal its new size.
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

    /// A handle for signals and terminal sizes.
    #[must_use]
    pub fn control(&self, session: &Session) -> ChildControl {
        ChildControl { session: session.clone(), stream: self.stream.id() }
    }

    /// What the child does next.
    ///
    /// # Errors
    /// When the guest is gone.
    pub async fn next(&mut self) -> Result<ChildEvent, SessionError> {
        loop {
            match self.stream.next().await? {
                Incoming::Data(channel, bytes) => return Ok(ChildEvent::Output(channel, bytes)),
                Incoming::End(_) | Incoming::Reply(Reply::Started { .. }) => {}
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

    /// Turns the child into a channel of events, read by a task of its own.
    #[must_use]
    pub fn into_events(mut self) -> mpsc::Receiver<Result<ChildEvent, SessionError>> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                let event = self.next().await;
                let over = !matches!(event, Ok(ChildEvent::Output(..)));
                if sender.send(event).await.is_err() || over {
                    return;
                }
            }
        });
        receiver
    }
}
