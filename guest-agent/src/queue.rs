//! What leaves a connection: a queue of frames and the one thread that writes it.
//!
//! Data frames wait for room, so a host that does not read holds the streams and
//! not the guest's memory. Replies and credit never wait: the thread that reads
//! the connection sends those, and it must go on reading. Their number is bounded
//! by what the host asks for.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use wire::Frame;

/// Bytes of data that may wait for the writer: a few of the largest frames, so
/// that it always has one at hand; more would only be latency.
const QUEUE_MAX_BYTES: usize = 512 * 1024;

/// Payloads up to this size are copied next to others into one write: under TCG
/// a system call with its notification of the device costs more than the copy.
const COALESCE_MAX_BYTES: usize = 4 * 1024;

/// The most bytes gathered before a write.
const BATCH_MAX_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    closed: bool,
    halted: bool,
    writing: bool,
}

/// Frames on their way out.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
}

/// The connection is gone, and whatever was being done for it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl From<Gone> for io::Error {
    fn from(_: Gone) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, "the connection to the host ended")
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a reply or credit, without waiting.
    pub(crate) fn push_control(&self, frame: Frame) -> Result<(), Gone> {
        self.push(self.lock(), frame)
    }

    /// Queues data when there is room.
    pub(crate) fn push_data(&self, frame: Frame) -> Result<(), Gone> {
        let mut state = self.lock();
        while state.bytes >= QUEUE_MAX_BYTES && !state.closed {
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.push(state, frame)
    }

    fn push(&self, mut state: MutexGuard<'_, State>, frame: Frame) -> Result<(), Gone> {
        if state.closed {
            return Err(Gone);
        }
        state.bytes += frame.payload.len();
        state.frames.push_back(frame);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Ends the queue; what stands in it is dropped.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.frames.clear();
        drop(state);
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Stops the writer for good without closing anything: for tests of a host
    /// whose agent hangs.
    pub(crate) fn halt(&self) {
        self.lock().halted = true;
    }

    /// Waits until everything queued has been written, or the queue is closed.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        while (state.writing || !state.frames.is_empty()) && !state.closed {
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take(&self, spare: VecDeque<Frame>) -> Option<VecDeque<Frame>> {
        let mut state = self.lock();
        state.writing = false;
        if state.frames.is_empty() {
            self.drained.notify_all();
        }
        while (state.frames.is_empty() || state.halted) && !state.closed {
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return None;
        }
        state.bytes = 0;
        state.writing = true;
        let frames = std::mem::replace(&mut state.frames, spare);
        drop(state);
        self.drained.notify_all();
        Some(frames)
    }

    /// Writes what comes until the queue is closed or the connection fails.
    pub(crate) fn run(&self, writer: &mut impl Write) {
        let mut spare = VecDeque::new();
        while let Some(mut frames) = self.take(spare) {
            if write_frames(writer, &mut frames).is_err() {
                return self.close();
            }
            spare = frames;
        }
    }
}

fn write_frames(writer: &mut impl Write, frames: &mut VecDeque<Frame>) -> io::Result<()> {
    let mut batch = Vec::new();
    for frame in frames.drain(..) {
        let prefix = frame.prefix().map_err(io::Error::other)?;
        batch.extend_from_slice(&prefix);
        if frame.payload.len() <= COALESCE_MAX_BYTES {
            batch.extend_from_slice(&frame.payload);
            if batch.len() < BATCH_MAX_BYTES {
                continue;
            }
            writer.write_all(&batch)?;
        } else {
            write_both(writer, &batch, &frame.payload)?;
        }
        batch.clear();
    }
    writer.write_all(&batch)?;
    writer.flush()
}

fn write_both(writer: &mut impl Write, head: &[u8], tail: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < head.len() {
        let slices = [IoSlice::new(&head[written..]), IoSlice::new(tail)];
        match writer.write_vectored(&slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    writer.write_all(&tail[written - head.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Channel;

    #[test]
    fn small_and_large_frames_arrive_in_order() {
        let queue = Queue::default();
        let mut expected = Vec::new();
        for (stream, size) in [(1, 5), (2, 60_000), (3, 0), (4, 4096), (5, 4097)] {
            let frame = Frame::data(stream, Channel::Main, vec![7; size]);
            expected.extend(frame.to_bytes().unwrap());
            queue.push_data(frame).unwrap();
        }
        let mut written = Vec::new();
        let mut frames = queue.take(VecDeque::new()).unwrap();
        write_frames(&mut written, &mut frames).unwrap();
        assert!(written == expected);
    }

    #[test]
    fn a_closed_queue_refuses_and_does_not_block() {
        let queue = Queue::default();
        queue.close();
        queue.flush();
        assert_eq!(queue.push_data(Frame::end(1, Channel::Main)), Err(Gone));
        assert_eq!(queue.push_control(Frame::end(1, Channel::Main)), Err(Gone));
        queue.run(&mut Vec::new());
    }
}
