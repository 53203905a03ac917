//! A question at the host's door that has not been answered yet.

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

/// Bytes before each message: its length.
const LENGTH_BYTES: usize = 4;

/// A question on its way, or its answer.
#[derive(Debug)]
pub(crate) struct Question {
    door: UnixStream,
    output: Vec<u8>,
    input: Vec<u8>,
}

/// What the door said.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Nothing yet.
    Pending,
    /// The connection is granted.
    Granted,
    /// No, or the door does not work.
    Refused(Refusal),
}

impl Question {
    /// Asks.
    ///
    /// # Errors
    /// When the request cannot be one.
    pub(crate) fn new(door: UnixStream, request: &Request) -> Result<Self, EgressError> {
        door.set_nonblocking(true)?;
        Ok(Self { door, output: request.to_frame()?, input: Vec::new() })
    }

    /// What is to be waited for, and where.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = if self.output.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        (self.door.as_fd(), flags)
    }

    /// Goes on as far as that is possible now.
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

    /// The stream, which carries what was asked for.
    pub(crate) fn into_door(self) -> UnixStream {
        self.door
    }

    fn reply(&mut self) -> Result<Option<Reply>, EgressError> {
        while !self.output.is_empty() {
            match self.door.write(&self.output) {
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
                // Too large a frame is refused by its length, of which no more was read.
                return Reply::read_from(&mut self.input.as_slice()).map(Some);
            }
            let mut piece = [0; FRAME_MAX_BYTES];
            // No byte more than the answer: what follows is the connection's.
            match self.door.read(&mut piece[..missing.min(FRAME_MAX_BYTES)]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(error) if is_not_now(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
