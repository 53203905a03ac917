//! Many streams over one connection: stream numbers, credit in both
//! directions, and one place that knows when the guest is gone.
//!
//! ```text
//! reader task:  frames ──► per-stream queue (bounded by the credit given)
//!                     └──► credit: permits of the stream's semaphores
//! writer task:  queue of frames ──► socket, flushed when the queue is empty
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use machine::{HaltReason, Machine};
use tokio::{
    io::{AsyncWriteExt, BufReader, BufWriter},
    net::UnixStream,
    sync::{Semaphore, mpsc},
};
use wire::{
    Channel, DATA_MAX_BYTES, Frame, FrameError, FrameKind, INITIAL_CREDIT_BYTES, Reply, Request,
};

use crate::SessionError;

/// Frames that wait for the socket. Each holds at most 64 KiB; when the queue is
/// full, senders wait.
const WRITE_QUEUE_FRAMES: usize = 64;
/// Credit is given back in portions, not for every frame.
const CREDIT_PORTION_BYTES: u32 = INITIAL_CREDIT_BYTES / 4;
/// How long the end of a connection waits for the machine to say how it ended,
/// before it is called lost.
const HALT_REASON_WAIT: Duration = Duration::from_secs(5);

/// What comes in on a stream.
#[derive(Debug)]
pub enum Incoming {
    /// A reply.
    Reply(Reply),
    /// Bytes on a channel.
    Data(Channel, Vec<u8>),
    /// No more bytes on a channel.
    End(Channel),
}

#[derive(Debug)]
struct StreamEntry {
    incoming: mpsc::UnboundedSender<Incoming>,
    /// Bytes that may still be sent on [`Channel::Main`], the only channel
    /// towards the guest.
    send_credit: Arc<Semaphore>,
}

type Streams = Arc<Mutex<HashMap<u32, StreamEntry>>>;

/// The connection to the agent.
#[derive(Debug)]
pub(crate) struct Connection {
    frames: mpsc::Sender<Frame>,
    streams: Streams,
    next_stream: AtomicU32,
    closed: Arc<AtomicBool>,
    machine: Arc<dyn Machine>,
}

impl Connection {
    /// Takes over a connected socket.
    pub(crate) fn new(socket: UnixStream, machine: Arc<dyn Machine>) -> Self {
        let (read, write) = socket.into_split();
        let (frames, queue) = mpsc::channel(WRITE_QUEUE_FRAMES);
        let streams = Streams::default();
        let closed = Arc::new(AtomicBool::new(false));
        tokio::spawn(read_frames(
            BufReader::with_capacity(2 * DATA_MAX_BYTES, read),
            Arc::clone(&streams),
            Arc::clone(&closed),
        ));
        tokio::spawn(write_frames(BufWriter::with_capacity(2 * DATA_MAX_BYTES, write), queue));
        Self { frames, streams, next_stream: AtomicU32::new(1), closed, machine }
    }

    /// Opens a stream with a request.
    pub(crate) async fn open(self: &Arc<Self>, request: &Request) -> Result<Stream, SessionError> {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::request(id, request)?;
        let (incoming, receiver) = mpsc::unbounded_channel();
        let send_credit = Arc::new(Semaphore::new(INITIAL_CREDIT_BYTES as usize));
        self.streams
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .insert(id, StreamEntry { incoming, send_credit: Arc::clone(&send_credit) });
        // From here on, dropping the stream removes the entry.
        let stream = Stream {
            id,
            connection: Arc::clone(self),
            incoming: receiver,
            send_credit,
            owed: HashMap::new(),
        };
        if self.closed.load(Ordering::Acquire) || self.frames.send(frame).await.is_err() {
            return Err(self.lost().await);
        }
        Ok(stream)
    }

    /// As [`Connection::open`], but a connection that nobody answers is no error.
    pub(crate) async fn try_open(
        self: &Arc<Self>,
        request: &Request,
    ) -> Result<Option<Stream>, SessionError> {
        if self.closed.load(Ordering::Acquire) || self.frames.is_closed() {
            return Ok(None);
        }
        match self.open(request).await {
            Ok(stream) => Ok(Some(stream)),
            Err(SessionError::Lost { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The error for a connection that has ended, with the reason of the machine.
    pub(crate) async fn lost(&self) -> SessionError {
        let reason =
            tokio::time::timeout(HALT_REASON_WAIT, self.machine.wait()).await.unwrap_or_else(
                |_| HaltReason::Lost("the guest agent closed its connection".to_owned()),
            );
        SessionError::Lost { reason, console_tail: self.machine.console_tail() }
    }
}

async fn read_frames(
    mut socket: BufReader<tokio::net::unix::OwnedReadHalf>,
    streams: Streams,
    closed: Arc<AtomicBool>,
) {
    loop {
        let frame = match Frame::read_async(&mut socket).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "connection to the agent ended");
                break;
            }
        };
        if let Err(error) = dispatch(frame, &streams) {
            tracing::warn!(%error, "the agent breaks the protocol");
            break;
        }
    }
    closed.store(true, Ordering::Release);
    // Dropping the senders tells every waiting stream; closing the semaphores
    // every waiting sender.
    let mut streams = streams.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (_, entry) in streams.drain() {
        entry.send_credit.close();
    }
}

/// Hands a frame to its stream. Frames of streams that nobody waits for any
/// more are dropped: the host may lose interest while the agent still sends.
fn dispatch(frame: Frame, streams: &Streams) -> Result<(), FrameError> {
    let mut streams = streams.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(entry) = streams.get(&frame.stream) else { return Ok(()) };
    let incoming = match frame.kind {
        FrameKind::Reply => {
            let reply = frame.as_reply()?;
            let is_final = reply.is_final();
            let sent = entry.incoming.send(Incoming::Reply(reply));
            if is_final || sent.is_err() {
                streams.remove(&frame.stream);
            }
            return Ok(());
        }
        FrameKind::Data => Incoming::Data(frame.channel, frame.payload),
        FrameKind::End => Incoming::End(frame.channel),
        FrameKind::Credit => {
            let bytes = frame.as_credit()? as usize;
            let room = Semaphore::MAX_PERMITS - entry.send_credit.available_permits();
            if bytes > room {
                return Err(FrameError::Protocol("more credit than can be counted".into()));
            }
            entry.send_credit.add_permits(bytes);
            return Ok(());
        }
        FrameKind::Request => {
            return Err(FrameError::Protocol("the agent sent a request".into()));
        }
    };
    // A receiver that is gone has lost interest.
    let _ = entry.incoming.send(incoming);
    Ok(())
}

async fn write_frames(
    mut socket: BufWriter<tokio::net::unix::OwnedWriteHalf>,
    mut queue: mpsc::Receiver<Frame>,
) {
    while let Some(frame) = queue.recv().await {
        if frame.write_async(&mut socket).await.is_err() {
            return;
        }
        while let Ok(frame) = queue.try_recv() {
            if frame.write_async(&mut socket).await.is_err() {
                return;
            }
        }
        if socket.flush().await.is_err() {
            return;
        }
    }
}

/// One stream of a connection.
#[derive(Debug)]
pub(crate) struct Stream {
    id: u32,
    connection: Arc<Connection>,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    send_credit: Arc<Semaphore>,
    /// Bytes taken from the queue whose credit is not given back yet.
    owed: HashMap<u8, u32>,
}

impl Stream {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The next thing that comes in; an error when the guest is gone before the
    /// final reply.
    pub(crate) async fn next(&mut self) -> Result<Incoming, SessionError> {
        let Some(incoming) = self.incoming.recv().await else {
            return Err(self.connection.lost().await);
        };
        if let Incoming::Data(channel, bytes) = &incoming {
            self.give_credit(*channel, bytes.len()).await;
        }
        Ok(incoming)
    }

    /// The next thing that comes in; `None` when the connection has ended.
    pub(crate) async fn try_next(&mut self) -> Option<Incoming> {
        self.incoming.recv().await
    }

    async fn give_credit(&mut self, channel: Channel, bytes: usize) {
        let owed = self.owed.entry(channel as u8).or_default();
        *owed = owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if *owed >= CREDIT_PORTION_BYTES {
            let credit = Frame::credit(self.id, channel, std::mem::take(owed));
            // A connection that is gone shows at the next receive.
            let _ = self.connection.frames.send(credit).await;
        }
    }

    /// A handle that sends data towards the guest on this stream.
    pub(crate) fn sender(&self) -> DataSender {
        DataSender {
            id: self.id,
            connection: Arc::clone(&self.connection),
            send_credit: Arc::clone(&self.send_credit),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection
            .streams
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(&self.id);
        self.send_credit.close();
    }
}

/// Sends data on the main channel of a stream, within its credit.
#[derive(Debug, Clone)]
pub(crate) struct DataSender {
    id: u32,
    connection: Arc<Connection>,
    send_credit: Arc<Semaphore>,
}

impl DataSender {
    /// Sends bytes, waiting for credit. `false` when the stream is over: its
    /// final reply says why.
    pub(crate) async fn send(&self, bytes: &[u8]) -> bool {
        for chunk in bytes.chunks(DATA_MAX_BYTES) {
            let permits = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let Ok(credit) = self.send_credit.acquire_many(permits).await else { return false };
            credit.forget();
            let frame = Frame::data(self.id, Channel::Main, chunk.to_vec());
            if self.connection.frames.send(frame).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Says that no more data follows.
    pub(crate) async fn end(&self) {
        let _ = self.connection.frames.send(Frame::end(self.id, Channel::Main)).await;
    }
}
