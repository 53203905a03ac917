//! Processes in the guest.

use std::time::Duration;

use tokio::sync::mpsc;
use wire::{Channel, ExitStatus, Reply, Request, Spawn, Stdin, TerminalSize};

use crate::{
    Incoming, Session, SessionError,
    connection::{DataSender, Stream},
};

/// The most output that [`Session::output`] keeps of each stream; the rest is
/// dropped from the front, because errors stand at the end. The largest output
/// that is parsed (a partition's tables, `dpkg` lists) is well below 1 MiB.
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
