//! A pending request to the host's egress service.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nix::poll::PollFlags;
use wire::egress::{EgressError, FRAME_MAX_BYTES, Message, Refusal, RefusalKind, Reply, Request};

use crate::link::is_not_now;

/// Length prefix of each message, in bytes.
const LENGTH_BYTES: usize = 4;

/// A request that is being sent, or whose reply is being received.
#[derive(Debug)]
pub(crate) struct EgressRequest {
    channel: UnixStream,
    output: Vec<u8>,
    input: Vec<u8>,
}

/// The state of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// No reply yet.
    Pending,
    /// The request was granted.
    Granted,
    /// The request was refused, or the channel failed.
    Refused(Refusal),
}

impl EgressRequest {
    /// Starts a request on a channel.
    ///
    /// # Errors
    /// Fails if the request is too large for a frame.
    pub(crate) fn new(channel: UnixStream, request: &Request) -> Result<Self, EgressError> {
        channel.set_nonblocking(true)?;
        Ok(Self { channel, output: request.to_frame()?, input: Vec::new() })
    }

    /// The descriptor and events to poll for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = if self.output.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        (self.channel.as_fd(), flags)
    }

    /// Sends and receives as far as possible without blocking.
    pub(crate) fn answer(&mut self) -> Answer {
        match self.reply() {
            Ok(None) => Answer::Pending,
            Ok(Some(reply)) => match reply.granted() {
                Ok(()) => Answer::Granted,
                Err(refusal) => Answer::Refused(refusal),
            },
            Err(error) => {
                let message = format!("the connection to the host failed: {error}");
                Answer::Refused(Refusal::new(RefusalKind::Unreachable, message))
            }
        }
    }

    /// The channel, which then carries the granted connection.
    pub(crate) fn into_channel(self) -> UnixStream {
        self.channel
    }

    fn reply(&mut self) -> Result<Option<Reply>, EgressError> {
        while !self.output.is_empty() {
            match self.channel.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if is_not_now(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        loop {
            let wanted = match self.input.first_chunk::<LENGTH_BYTES>() {
                None => LENGTH_BYTES,
                Some(length) => {
                    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
                    LENGTH_BYTES + length.min(FRAME_MAX_BYTES)
                }
            };
            let missing = wanted - self.input.len();
            if missing == 0 {
                // A frame that is too large is refused by its length, without reading more.
                return Reply::read_from(&mut self.input.as_slice()).map(Some);
            }
            let mut piece = [0; FRAME_MAX_BYTES];
            // Not a byte beyond the reply: what follows belongs to the connection.
            match self.channel.read(&mut piece[..missing.min(FRAME_MAX_BYTES)]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if is_not_now(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
