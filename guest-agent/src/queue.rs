//! The outgoing frames of a connection: a queue that one thread at a time writes.
//!
//! A thread that serves a stream writes its frames itself if no other thread is writing, which
//! saves a thread switch for each. Frames that come meanwhile, and those from the reader of the
//! connection, are left to the writer thread: the reader must continue to read, so it never writes
//! and never waits.
//!
//! Data frames wait for room in the queue, so a host that does not read blocks the streams and does
//! not fill the guest's memory. The number of other frames is bounded by the number of frames that
//! the host sends.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use wire::Frame;

/// The number of queued bytes at which senders of data wait: a few of the largest frames, so that
/// the writer always has one available. More would only add latency.
const QUEUE_MAX_BYTES: usize = 512 * 1024;

/// The maximum size of a payload that is copied into one write with others, in bytes: under TCG a
/// system call with its notification of the device costs more than the copy.
const COALESCE_MAX_BYTES: usize = 4 * 1024;

/// The number of gathered bytes at which a batch is written.
const BATCH_MAX_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    /// Bytes of payload in `frames`.
    bytes: usize,
    closed: bool,
    /// Whether a thread is writing frames that it took from the queue.
    writing: bool,
    /// Whether the writer thread waits for frames. Waking it costs a system call, so this is only
    /// done if it sleeps.
    writer_waits: bool,
    /// The number of threads that wait for the queue to shrink.
    waiting: usize,
}

/// A queue of outgoing frames.
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
    /// Locked only by the thread that has set `writing`.
    writer: Mutex<Box<dyn Write + Send>>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Queue").field("state", &self.state).finish_non_exhaustive()
    }
}

/// The error of an operation on a connection that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

impl From<Gone> for io::Error {
    fn from(_: Gone) -> Self {
        Self::new(io::ErrorKind::ConnectionAborted, "the connection to the host ended")
    }
}

impl Queue {
    pub(crate) fn new(writer: impl Write + Send + 'static) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            writer: Mutex::new(Box::new(writer)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a control frame, such as a reply or credit, and leaves the writing to other threads.
    pub(crate) fn push_control(&self, frame: Frame) -> Result<(), Gone> {
        let state = self.push(self.lock(), frame)?;
        self.wake_writer(state);
        Ok(())
    }

    /// Queues a control frame, such as a reply or credit, and writes the queue if no other thread
    /// is writing.
    pub(crate) fn send_control(&self, frame: Frame) -> Result<(), Gone> {
        let state = self.push(self.lock(), frame)?;
        self.write_or_leave(state);
        Ok(())
    }

    /// Waits for room in the queue, queues a data frame, and writes the queue if no other thread is
    /// writing.
    pub(crate) fn send_data(&self, frame: Frame) -> Result<(), Gone> {
        let mut state = self.lock();
        while state.bytes >= QUEUE_MAX_BYTES && !state.closed {
            state = self.wait_drained(state);
        }
        let state = self.push(state, frame)?;
        self.write_or_leave(state);
        Ok(())
    }

    fn push<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        frame: Frame,
    ) -> Result<MutexGuard<'a, State>, Gone> {
        if state.closed {
            return Err(Gone);
        }
        state.bytes += frame.payload.len();
        state.frames.push_back(frame);
        Ok(state)
    }

    fn wake_writer(&self, state: MutexGuard<'_, State>) {
        let wake = state.writer_waits && !state.writing;
        drop(state);
        if wake {
            self.filled.notify_one();
        }
    }

    /// Writes the queued frames if no other thread is writing: only one round, as this thread has a
    /// stream to serve.
    fn write_or_leave(&self, state: MutexGuard<'_, State>) {
        if state.writing {
            return;
        }
        let state = self.write_round(state);
        if !state.frames.is_empty() {
            self.wake_writer(state);
        }
    }

    /// Takes all frames from the queue and writes them; closes the queue if that fails.
    fn write_round<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.writing = true;
        state.bytes = 0;
        let mut frames = std::mem::take(&mut state.frames);
        let wake = state.waiting > 0;
        drop(state);
        if wake {
            self.drained.notify_all();
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = write_frames(&mut *writer, &mut frames);
        drop(writer);
        if written.is_err() {
            self.close();
        }
        let mut state = self.lock();
        state.writing = false;
        if state.frames.is_empty() {
            // Its allocation is used for the next frames.
            state.frames = frames;
        }
        if state.waiting > 0 {
            self.drained.notify_all();
        }
        state
    }

    fn wait_drained<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    /// Closes the queue; the frames in it are dropped.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.frames.clear();
        drop(state);
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Waits until everything queued has been written, or the queue is closed.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        while (state.writing || !state.frames.is_empty()) && !state.closed {
            state = self.wait_drained(state);
        }
    }

    /// Runs the writer thread: writes frames that other threads leave, until the queue is closed.
    pub(crate) fn run(&self) {
        let mut state = self.lock();
        while !state.closed {
            if state.frames.is_empty() || state.writing {
                state.writer_waits = true;
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.writer_waits = false;
            } else {
                state = self.write_round(state);
            }
        }
    }
}

fn write_frames(writer: &mut dyn Write, frames: &mut VecDeque<Frame>) -> io::Result<()> {
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

fn write_both(writer: &mut dyn Write, head: &[u8], tail: &[u8]) -> io::Result<()> {
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
    use std::sync::Arc;
    use wire::Channel;

    /// A writer whose bytes the test can read.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn small_and_large_frames_arrive_in_order() {
        let written = Shared::default();
        let queue = Queue::new(written.clone());
        let mut expected = Vec::new();
        for (stream, size) in [(1, 5), (2, 60_000), (3, 1), (4, 4096), (5, 4097)] {
            let frame = Frame::data(stream, Channel::Main, vec![7; size]);
            expected.extend(frame.to_bytes().unwrap());
            // The last is sent, and takes what was left with it.
            let result = match stream {
                5 => queue.send_data(frame),
                _ => queue.push_control(frame),
            };
            result.unwrap();
        }
        queue.flush();
        assert!(*written.0.lock().unwrap() == expected);
    }

    #[test]
    fn many_threads_lose_nothing() {
        let written = Shared::default();
        let queue = Queue::new(written.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| queue.run());
            let senders: Vec<_> = (1..=8)
                .map(|stream| {
                    let queue = &queue;
                    scope.spawn(move || {
                        for size in 1..500 {
                            let frame = Frame::data(stream, Channel::Main, vec![7; size * 40]);
                            let result = match size % 2 {
                                0 => queue.send_data(frame),
                                _ => queue.push_control(frame),
                            };
                            result.unwrap();
                        }
                    })
                })
                .collect();
            senders.into_iter().for_each(|sender| sender.join().unwrap());
            queue.flush();
            queue.close();
        });
        let bytes = written.0.lock().unwrap();
        let (mut rest, mut next) = (bytes.as_slice(), [1; 9]);
        while let Some(frame) = Frame::read_from(&mut rest).unwrap() {
            let expected = &mut next[frame.stream as usize];
            assert_eq!(frame.payload.len(), *expected * 40, "in the order of its stream");
            *expected += 1;
        }
        assert_eq!(next[1..], [500; 8]);
    }

    #[test]
    fn a_closed_queue_refuses_and_does_not_block() {
        let queue = Queue::new(Vec::new());
        queue.close();
        queue.flush();
        assert_eq!(queue.send_data(Frame::end(1, Channel::Main)), Err(Gone));
        assert_eq!(queue.push_control(Frame::end(1, Channel::Main)), Err(Gone));
        queue.run();
    }

    #[test]
    fn a_writer_that_fails_closes_the_queue() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Queue::new(Broken);
        let _ = queue.send_control(Frame::end(1, Channel::Main));
        assert_eq!(queue.push_control(Frame::end(1, Channel::Main)), Err(Gone));
    }
}
