//! Multiplexes streams over the connection to the agent: stream numbers, flow control by credit in
//! both directions, and a single place that detects the end of the connection.
//!
//! ```text
//! reader task:  frames ──► inbox of the stream, which holds the agent to its credit
//!                     └──► credit: permits of the stream's semaphores
//! writer task:  queue of frames ──► socket, flushed when the queue is empty
//! ```

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
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
use wire::{Channel, DATA_MAX_BYTES, Frame, FrameError, FrameKind, INITIAL_CREDIT_BYTES, Request};

use crate::{
    SessionError,
    inbox::{Inbox, Incoming},
};

/// Maximum number of frames that wait for the socket. A data frame has at most 64 KiB. When the
/// queue is full, senders wait.
const WRITE_QUEUE_FRAMES: usize = 64;
/// Credit is returned to the agent in portions of this size, not for every frame.
const CREDIT_PORTION_BYTES: u32 = INITIAL_CREDIT_BYTES / 4;
/// Time limit for learning how the machine ended, after the connection has ended. After it, the
/// machine is reported as lost.
const HALT_REASON_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct StreamEntry {
    inbox: Arc<Inbox>,
    /// Bytes that may still be sent on [`Channel::Main`], the only channel
    /// towards the guest.
    send_credit: Arc<Semaphore>,
}

/// The open streams and the state of the connection, shared by the reader task and the streams.
#[derive(Debug, Default)]
pub(crate) struct Table {
    streams: Mutex<HashMap<u32, StreamEntry>>,
    closed: AtomicBool,
    /// The protocol violation by the agent that ended the connection, if one did.
    broken: OnceLock<String>,
}

/// The connection to the agent.
#[derive(Debug)]
pub(crate) struct Connection {
    frames: mpsc::Sender<Frame>,
    table: Arc<Table>,
    next_stream: AtomicU32,
    machine: Arc<dyn Machine>,
}

impl Connection {
    /// Starts the reader and writer tasks for a connected socket.
    pub(crate) fn new(socket: UnixStream, machine: Arc<dyn Machine>) -> Self {
        let (read, write) = socket.into_split();
        let (frames, queue) = mpsc::channel(WRITE_QUEUE_FRAMES);
        let table = Arc::new(Table::default());
        let reader = BufReader::with_capacity(2 * DATA_MAX_BYTES, read);
        tokio::spawn(read_frames(reader, Arc::clone(&table)));
        tokio::spawn(write_frames(BufWriter::with_capacity(2 * DATA_MAX_BYTES, write), queue));
        Self { frames, table, next_stream: AtomicU32::new(1), machine }
    }

    /// Opens a stream with a request.
    pub(crate) async fn open(self: &Arc<Self>, request: &Request) -> Result<Stream, SessionError> {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::request(id, request)?;
        let (inbox, send_credit) = self.table.open(id);
        // From here on, dropping the stream removes the entry.
        let stream =
            Stream { id, connection: Arc::clone(self), inbox, send_credit, owed: HashMap::new() };
        if self.table.closed.load(Ordering::Acquire) || self.frames.send(frame).await.is_err() {
            return Err(self.lost().await);
        }
        Ok(stream)
    }

    /// Like [`Connection::open`], but returns `None` if the connection has ended, as it does when
    /// the agent does not listen yet.
    pub(crate) async fn try_open(
        self: &Arc<Self>,
        request: &Request,
    ) -> Result<Option<Stream>, SessionError> {
        if self.table.closed.load(Ordering::Acquire) || self.frames.is_closed() {
            return Ok(None);
        }
        match self.open(request).await {
            Ok(stream) => Ok(Some(stream)),
            Err(SessionError::Lost { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the error for a connection that has ended: the agent's protocol violation, or else
    /// the reason why the machine ended.
    pub(crate) async fn lost(&self) -> SessionError {
        if let Some(how) = self.table.broken.get() {
            return SessionError::Frame(FrameError::Protocol(how.clone()));
        }
        let reason =
            tokio::time::timeout(HALT_REASON_WAIT, self.machine.wait()).await.unwrap_or_else(
                |_| HaltReason::Lost("the guest agent closed its connection".to_owned()),
            );
        SessionError::Lost { reason, console_tail: self.machine.console_tail() }
    }
}

async fn read_frames(mut socket: BufReader<tokio::net::unix::OwnedReadHalf>, table: Arc<Table>) {
    loop {
        let read = Frame::read_async(&mut socket).await;
        let dispatched = match read {
            Ok(Some(frame)) => table.dispatch(frame),
            Ok(None) => break,
            Err(error) => Err(error),
        };
        match dispatched {
            Ok(()) => {}
            Err(FrameError::Protocol(how)) => {
                tracing::warn!(how, "the agent breaks the protocol");
                let _ = table.broken.set(how);
                break;
            }
            Err(error) => {
                tracing::debug!(%error, "connection to the agent ended");
                break;
            }
        }
    }
    table.close();
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<u32, StreamEntry>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a stream. Returns its inbox and its credit for sending.
    pub(crate) fn open(&self, id: u32) -> (Arc<Inbox>, Arc<Semaphore>) {
        let inbox = Arc::new(Inbox::default());
        let send_credit = Arc::new(Semaphore::new(INITIAL_CREDIT_BYTES as usize));
        let entry =
            StreamEntry { inbox: Arc::clone(&inbox), send_credit: Arc::clone(&send_credit) };
        self.lock().insert(id, entry);
        (inbox, send_credit)
    }

    /// Passes a frame to its stream. Frames of streams that are not registered any more are
    /// dropped: the host may have dropped a stream while the agent still sends.
    pub(crate) fn dispatch(&self, frame: Frame) -> Result<(), FrameError> {
        let mut streams = self.lock();
        let Some(entry) = streams.get(&frame.stream) else { return Ok(()) };
        if frame.kind == FrameKind::Credit {
            let bytes = frame.as_credit()? as usize;
            let room = Semaphore::MAX_PERMITS - entry.send_credit.available_permits();
            if bytes > room {
                return Err(FrameError::Protocol("more credit than can be counted".into()));
            }
            entry.send_credit.add_permits(bytes);
            return Ok(());
        }
        let stream = frame.stream;
        if entry.inbox.accept(frame)? {
            streams.remove(&stream);
        }
        Ok(())
    }

    /// Marks the connection as ended, and wakes every stream and every sender that waits.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for (_, entry) in self.lock().drain() {
            entry.inbox.close();
            entry.send_credit.close();
        }
    }
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
    inbox: Arc<Inbox>,
    send_credit: Arc<Semaphore>,
    /// Bytes that were taken from the inbox and whose credit has not been returned yet, by channel.
    owed: HashMap<u8, u32>,
}

impl Stream {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Waits for the next incoming item, and returns the credit of data to the agent. Fails if the
    /// connection ends before the final reply.
    pub(crate) async fn next(&mut self) -> Result<Incoming, SessionError> {
        let Some(incoming) = self.inbox.next().await else {
            return Err(self.connection.lost().await);
        };
        if let Incoming::Data(channel, bytes) = &incoming {
            self.give_credit(*channel, bytes.len()).await;
        }
        Ok(incoming)
    }

    /// Waits for the next incoming item, without returning credit; `None` if nothing follows.
    pub(crate) async fn try_next(&mut self) -> Option<Incoming> {
        self.inbox.next().await
    }

    async fn give_credit(&mut self, channel: Channel, bytes: usize) {
        let owed = self.owed.entry(channel as u8).or_default();
        *owed = owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        if *owed >= CREDIT_PORTION_BYTES {
            let bytes = std::mem::take(owed);
            self.inbox.allow(channel, bytes);
            let credit = Frame::credit(self.id, channel, bytes);
            // If the connection is gone, the next receive fails.
            let _ = self.connection.frames.send(credit).await;
        }
    }

    /// Returns a handle that sends data to the guest on this stream.
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
        self.connection.table.lock().remove(&self.id);
        self.send_credit.close();
    }
}

/// A sender of data on the main channel of a stream, limited by its credit.
#[derive(Debug, Clone)]
pub(crate) struct DataSender {
    id: u32,
    connection: Arc<Connection>,
    send_credit: Arc<Semaphore>,
}

impl DataSender {
    /// Sends bytes, and waits for credit as needed. Returns `false` if the stream has ended; its
    /// final reply has the reason.
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

    /// Sends the end of the stream's data.
    pub(crate) async fn end(&self) {
        let _ = self.connection.frames.send(Frame::end(self.id, Channel::Main)).await;
    }
}
