//! One stream of a connection, for the thread that serves it: bytes from the host in order, bytes
//! to the host as far as its credit allows, and replies.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use wire::{Channel, DATA_MAX_BYTES, Frame, FrameError, INITIAL_CREDIT_BYTES, Reply};

use crate::process::Process;
use crate::queue::{Gone, Queue};

/// The amount of credit that is returned to the host at once, in bytes: a quarter of the initial
/// credit, so that the host never runs out of it and few frames are needed.
const CREDIT_STEP_BYTES: u32 = INITIAL_CREDIT_BYTES / 4;

#[derive(Debug)]
struct State {
    inbound: VecDeque<Vec<u8>>,
    inbound_ended: bool,
    /// Bytes that the host may still send.
    window: u64,
    /// Bytes taken from `inbound` and not yet returned as credit.
    consumed: u32,
    /// Bytes that the agent may still send, by channel.
    credit: [u64; 3],
    aborted: bool,
}

/// The result of receiving without waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// Bytes from the host.
    Bytes(Vec<u8>),
    /// Nothing has arrived yet.
    Nothing,
    /// The host has sent everything, or the connection is over.
    Ended,
}

/// A stream of a connection.
#[derive(Debug)]
pub(crate) struct Stream {
    id: u32,
    queue: Arc<Queue>,
    state: Mutex<State>,
    changed: Condvar,
    wake: OnceLock<EventFd>,
    /// The process of a spawn stream, once there is one.
    pub(crate) process: Process,
}

impl Stream {
    pub(crate) fn new(id: u32, queue: Arc<Queue>) -> Self {
        let state = State {
            inbound: VecDeque::new(),
            inbound_ended: false,
            window: u64::from(INITIAL_CREDIT_BYTES),
            consumed: 0,
            credit: [u64::from(INITIAL_CREDIT_BYTES); 3],
            aborted: false,
        };
        Self {
            id,
            queue,
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake: OnceLock::new(),
            process: Process::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.notify_all();
        if let Some(wake) = self.wake.get() {
            // This fails only if the counter is full, and then the descriptor is readable anyway.
            let _ = wake.write(1);
        }
    }

    /// Returns a descriptor that becomes readable whenever the stream changes.
    pub(crate) fn wake(&self) -> nix::Result<&EventFd> {
        if self.wake.get().is_none() {
            let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
            let _ = self.wake.set(EventFd::from_flags(flags)?);
        }
        self.wake.get().ok_or(nix::errno::Errno::EBADF)
    }

    /// Returns the number of the stream.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    // These methods are called by the thread that reads the connection.

    /// Accepts a frame that the host sent for this stream.
    pub(crate) fn accept(&self, frame: Frame) -> Result<(), FrameError> {
        let broken = |what: &str| FrameError::Protocol(format!("{what} on stream {}", self.id));
        let mut state = self.lock();
        match frame.kind {
            wire::FrameKind::Data => {
                let length = frame.payload.len() as u64;
                if frame.channel != Channel::Main || state.inbound_ended {
                    return Err(broken("data on a channel that takes none"));
                }
                state.window =
                    state.window.checked_sub(length).ok_or_else(|| broken("data over credit"))?;
                state.inbound.push_back(frame.payload);
            }
            wire::FrameKind::End => state.inbound_ended = true,
            wire::FrameKind::Credit => {
                let credit = &mut state.credit[frame.channel as usize];
                *credit = credit.saturating_add(u64::from(frame.as_credit()?));
            }
            wire::FrameKind::Request | wire::FrameKind::Reply => {
                return Err(broken("a second header"));
            }
        }
        drop(state);
        self.notify();
        Ok(())
    }

    /// Notifies the serving thread that the connection is over.
    pub(crate) fn abort(&self) {
        self.lock().aborted = true;
        self.notify();
    }

    // These methods are called by the serving thread.

    /// Whether the connection is over.
    pub(crate) fn is_aborted(&self) -> bool {
        self.lock().aborted
    }

    /// Takes the next bytes from the host, without waiting.
    pub(crate) fn try_receive(&self) -> Inbound {
        let state = self.lock();
        match (state.inbound.is_empty(), state.inbound_ended || state.aborted) {
            (true, true) => Inbound::Ended,
            (true, false) => Inbound::Nothing,
            (false, _) => self.take(state).map_or(Inbound::Nothing, Inbound::Bytes),
        }
    }

    /// Waits for the next bytes from the host; returns `None` if the host has sent everything.
    pub(crate) fn receive(&self) -> Result<Option<Vec<u8>>, Gone> {
        let mut state = self.lock();
        while state.inbound.is_empty() && !state.inbound_ended && !state.aborted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.aborted { Err(Gone) } else { Ok(self.take(state)) }
    }

    fn take(&self, mut state: MutexGuard<'_, State>) -> Option<Vec<u8>> {
        let bytes = state.inbound.pop_front()?;
        // This is at most the initial credit, which is far below the limit of u32.
        state.consumed += u32::try_from(bytes.len()).unwrap_or(0);
        if state.consumed >= CREDIT_STEP_BYTES && !state.inbound_ended {
            let credit = std::mem::take(&mut state.consumed);
            state.window += u64::from(credit);
            drop(state);
            // If the connection is gone, the next wait reports it.
            let _ = self.queue.send_control(Frame::credit(self.id, Channel::Main, credit));
        }
        Some(bytes)
    }

    /// Returns the number of bytes that may be sent on a channel now.
    pub(crate) fn credit(&self, channel: Channel) -> usize {
        usize::try_from(self.lock().credit[channel as usize]).unwrap_or(usize::MAX)
    }

    /// Sends bytes on a channel, waiting for credit as needed.
    pub(crate) fn send(&self, channel: Channel, mut bytes: Vec<u8>) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let mut state = self.lock();
            while state.credit[channel as usize] == 0 && !state.aborted {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.aborted {
                return Err(Gone);
            }
            let credit = &mut state.credit[channel as usize];
            let count =
                bytes.len().min(DATA_MAX_BYTES).min(usize::try_from(*credit).unwrap_or(usize::MAX));
            *credit -= count as u64;
            drop(state);
            let rest = bytes.split_off(count);
            self.queue.send_data(Frame::data(self.id, channel, bytes))?;
            bytes = rest;
        }
        Ok(())
    }

    /// Ends a channel towards the host.
    pub(crate) fn send_end(&self, channel: Channel) -> Result<(), Gone> {
        self.queue.send_control(Frame::end(self.id, channel))
    }

    /// Sends a reply; one that cannot be encoded is replaced by a failure.
    pub(crate) fn reply(&self, reply: &Reply) -> Result<(), Gone> {
        let frame = Frame::reply(self.id, reply).or_else(|error| {
            let reason = error.to_string();
            let reply = Reply::Failed(crate::failure::failure("encode the answer", reason));
            Frame::reply(self.id, &reply)
        });
        self.queue.send_control(frame.map_err(|_| Gone)?)
    }
}

/// A reader of the bytes that the host sends.
#[derive(Debug)]
pub(crate) struct StreamReader<'a> {
    stream: &'a Stream,
    current: Vec<u8>,
    position: usize,
}

impl<'a> StreamReader<'a> {
    pub(crate) fn new(stream: &'a Stream) -> Self {
        Self { stream, current: Vec::new(), position: 0 }
    }
}

impl Read for StreamReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.current.len() {
            match self.stream.receive()? {
                None => return Ok(0),
                Some(bytes) => (self.current, self.position) = (bytes, 0),
            }
        }
        let count = buffer.len().min(self.current.len() - self.position);
        buffer[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

/// A writer of bytes to the host on [`Channel::Main`], which gathers them into full frames.
#[derive(Debug)]
pub(crate) struct StreamWriter<'a> {
    stream: &'a Stream,
    pending: Vec<u8>,
}

impl<'a> StreamWriter<'a> {
    pub(crate) fn new(stream: &'a Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Sends the remaining bytes and the end of the channel.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        Ok(self.stream.send_end(Channel::Main)?)
    }
}

impl Write for StreamWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(DATA_MAX_BYTES);
        }
        let count = bytes.len().min(DATA_MAX_BYTES - self.pending.len());
        self.pending.extend_from_slice(&bytes[..count]);
        if self.pending.len() == DATA_MAX_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.stream.send(Channel::Main, std::mem::take(&mut self.pending))?)
    }
}
