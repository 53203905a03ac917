//! The received frames of one stream that have not been read yet.
//!
//! The agent may be as hostile as the programs that run beside it, so the flow control of the
//! protocol is enforced here. These violations end the connection: bytes beyond the credit, a frame
//! on a channel after its end, and a second `started`. So does a frame after the final reply,
//! unless the stream is not registered any more. Small frames are joined, so that the memory of the
//! queue depends on the number of bytes, not of frames.
//!
//! ```text
//! held by one stream <= 3 channels x INITIAL_CREDIT_BYTES   (twice that as a vector grows)
//!                     + QUEUE_MAX_PIECES small pieces
//!                     + 1 started + 3 ends + 1 final reply of HEADER_MAX_BYTES
//! ```

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use wire::{Channel, DATA_MAX_BYTES, Frame, FrameError, FrameKind, INITIAL_CREDIT_BYTES, Reply};

/// Number of queued items up to which the order between channels is kept exactly. Beyond it, bytes
/// are appended to the last piece of their own channel. This is harmless, since channels are
/// separate pipes in the guest, with no order between them. 256 is five times the number of full
/// frames that the whole credit allows.
const QUEUE_MAX_PIECES: usize = 256;
/// Number of channels of a stream.
const CHANNELS: usize = 3;

/// An item that has arrived on a stream.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A reply to the request of the stream.
    Reply(Reply),
    /// Bytes on a channel: at least one, at most [`DATA_MAX_BYTES`].
    Data(Channel, Vec<u8>),
    /// The end of the data on a channel.
    End,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Incoming>,
    /// Bytes that the agent may still send, by channel.
    allowed: [u64; CHANNELS],
    ended: [bool; CHANNELS],
    started: bool,
    /// Whether nothing follows: the final reply has arrived, or the connection is gone.
    closed: bool,
}

/// The queue of one stream.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    /// Wakes the reader; there is only one.
    changed: Notify,
}

impl Default for Inbox {
    fn default() -> Self {
        let state = State {
            queue: VecDeque::new(),
            allowed: [u64::from(INITIAL_CREDIT_BYTES); CHANNELS],
            ended: [false; CHANNELS],
            started: false,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a frame of the agent for this stream. Returns whether it was the last one.
    ///
    /// # Errors
    /// Fails with [`FrameError::Protocol`] if the frame violates the protocol.
    pub(crate) fn accept(&self, frame: Frame) -> Result<bool, FrameError> {
        let mut state = self.lock();
        let result = state.accept(frame);
        drop(state);
        self.changed.notify_one();
        result
    }

    /// Allows the agent to send `bytes` more on a channel. Must be called before the credit is
    /// sent.
    pub(crate) fn allow(&self, channel: Channel, bytes: u32) {
        self.lock().allowed[channel as usize] += u64::from(bytes);
    }

    /// Ends the stream: nothing follows.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Returns the next item, if there is one, without waiting.
    pub(crate) fn try_next(&self) -> Option<Incoming> {
        self.lock().queue.pop_front()
    }

    /// Waits for the next item; `None` if nothing follows.
    pub(crate) async fn next(&self) -> Option<Incoming> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if let Some(incoming) = state.queue.pop_front() {
                    return Some(incoming);
                }
                if state.closed {
                    return None;
                }
            }
            changed.await;
        }
    }
}

impl State {
    fn accept(&mut self, frame: Frame) -> Result<bool, FrameError> {
        let (stream, channel) = (frame.stream, frame.channel);
        let broken =
            |what: &str| FrameError::Protocol(format!("{what} on stream {stream}, {channel:?}"));
        if self.closed {
            return Err(broken("a frame behind the final reply"));
        }
        let index = channel as usize;
        match frame.kind {
            FrameKind::Data | FrameKind::End if self.ended[index] => {
                Err(broken("a channel that goes on after its end"))
            }
            FrameKind::Data => {
                let length = frame.payload.len() as u64;
                let left = self.allowed[index].checked_sub(length);
                self.allowed[index] = left.ok_or_else(|| broken("more data than was allowed"))?;
                self.push(channel, frame.payload);
                Ok(false)
            }
            FrameKind::End => {
                self.ended[index] = true;
                self.queue.push_back(Incoming::End);
                Ok(false)
            }
            FrameKind::Reply => {
                let reply = frame.as_reply()?;
                let last = reply.is_final();
                if !last && std::mem::replace(&mut self.started, true) {
                    return Err(broken("a second answer that is not the last"));
                }
                self.closed = last;
                self.queue.push_back(Incoming::Reply(reply));
                Ok(last)
            }
            FrameKind::Request => Err(broken("a request of the agent")),
            FrameKind::Credit => Err(broken("credit among data")),
        }
    }

    /// Queues bytes. They are appended to an existing piece if no order between channels that
    /// readers rely on is lost.
    fn push(&mut self, channel: Channel, bytes: Vec<u8>) {
        let reach = if self.queue.len() < QUEUE_MAX_PIECES { 1 } else { self.queue.len() };
        let last = self.queue.iter_mut().rev().take(reach).find_map(|incoming| match incoming {
            Incoming::Data(of, piece) if *of == channel => Some(piece),
            _ => None,
        });
        match last {
            Some(piece) if piece.len() + bytes.len() <= DATA_MAX_BYTES => {
                piece.extend_from_slice(&bytes);
            }
            _ => self.queue.push_back(Incoming::Data(channel, bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::{ExitStatus, HEADER_MAX_BYTES};

    use super::*;

    const CHANNEL: [Channel; CHANNELS] = [Channel::Main, Channel::Stdout, Channel::Stderr];

    fn data(channel: Channel, bytes: usize) -> Frame {
        Frame::data(1, channel, vec![7; bytes])
    }

    fn reply(reply: &Reply) -> Frame {
        Frame::reply(1, reply).unwrap()
    }

    /// What the queue holds, without waiting.
    fn take(inbox: &Inbox) -> Vec<Incoming> {
        std::iter::from_fn(|| inbox.try_next()).collect()
    }

    #[test]
    fn data_over_credit_breaks_the_connection() {
        let inbox = Inbox::default();
        for _ in 0..INITIAL_CREDIT_BYTES as usize / DATA_MAX_BYTES {
            inbox.accept(data(Channel::Stdout, DATA_MAX_BYTES)).unwrap();
        }
        let error = inbox.accept(data(Channel::Stdout, 1)).unwrap_err().to_string();
        assert!(error.contains("more data than was allowed on stream 1, Stdout"), "{error}");
        // Credit is each channel's own.
        inbox.accept(data(Channel::Stderr, 1)).unwrap();
        inbox.allow(Channel::Stdout, 2);
        inbox.accept(data(Channel::Stdout, 2)).unwrap();
        inbox.accept(data(Channel::Stdout, 1)).unwrap_err();
    }

    #[test]
    fn ends_and_replies_are_counted_too() {
        let inbox = Inbox::default();
        inbox.accept(Frame::end(1, Channel::Main)).unwrap();
        inbox.accept(Frame::end(1, Channel::Main)).unwrap_err();
        inbox.accept(data(Channel::Main, 1)).unwrap_err();
        assert!(!inbox.accept(reply(&Reply::Started { pid: 1 })).unwrap());
        inbox.accept(reply(&Reply::Started { pid: 1 })).unwrap_err();
        let exited = Reply::Exited { status: ExitStatus::Code(0), cpu_ms: 1 };
        assert!(inbox.accept(reply(&exited)).unwrap());
        inbox.accept(reply(&exited)).unwrap_err();
        inbox.accept(Frame::end(1, Channel::Stderr)).unwrap_err();
        assert_eq!(take(&inbox).len(), 3);
    }

    #[test]
    fn small_frames_take_memory_for_their_bytes() {
        // 3 MiB of credit in frames of one byte, in turns: as a queue of frames
        // that would be 3 Mi vectors.
        let inbox = memory_bound::within(8 << 20, || {
            let inbox = Inbox::default();
            for _ in 0..INITIAL_CREDIT_BYTES {
                for channel in CHANNEL {
                    inbox.accept(data(channel, 1)).unwrap();
                }
            }
            let largest = Frame {
                payload: vec![b'x'; HEADER_MAX_BYTES],
                ..reply(&Reply::Started { pid: 1 })
            };
            inbox.accept(largest).unwrap_err();
            inbox
        });
        let pieces = take(&inbox);
        assert!(pieces.len() <= QUEUE_MAX_PIECES + CHANNELS * 16, "{}", pieces.len());
        let mut seen = [0; CHANNELS];
        for piece in pieces {
            let Incoming::Data(channel, bytes) = piece else { panic!("{piece:?}") };
            assert!(bytes.len() <= DATA_MAX_BYTES);
            seen[channel as usize] += bytes.len();
        }
        assert_eq!(seen, [INITIAL_CREDIT_BYTES as usize; CHANNELS]);
    }

    #[test]
    fn the_order_of_channels_is_kept_while_the_reader_keeps_up() {
        let inbox = Inbox::default();
        for channel in [Channel::Stdout, Channel::Stderr, Channel::Stderr, Channel::Stdout] {
            inbox.accept(data(channel, 2)).unwrap();
        }
        let order: Vec<_> = take(&inbox)
            .into_iter()
            .map(|piece| match piece {
                Incoming::Data(channel, bytes) => (channel, bytes.len()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(order, [(Channel::Stdout, 2), (Channel::Stderr, 4), (Channel::Stdout, 2)]);
    }

    #[tokio::test]
    async fn a_reader_gets_all_and_then_the_end() {
        let inbox = std::sync::Arc::new(Inbox::default());
        let writer = std::sync::Arc::clone(&inbox);
        let task = tokio::spawn(async move {
            for _ in 0..100 {
                writer.accept(data(Channel::Main, 1)).unwrap();
                tokio::task::yield_now().await;
            }
            writer.accept(reply(&Reply::Done {})).unwrap();
        });
        let mut bytes = 0;
        while let Some(Incoming::Data(_, piece)) = inbox.next().await {
            bytes += piece.len();
        }
        task.await.unwrap();
        assert_eq!(bytes, 100);
        assert!(inbox.next().await.is_none());
    }
}
