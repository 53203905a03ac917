//! The data path of a connection: reads and writes the local stream, and handles the end of both
//! directions.

use std::{collections::VecDeque, io, net::Shutdown, os::fd::AsRawFd};

use nix::sys::socket::{MsgFlags, send};
use vm_memory::bitmap::BitmapSlice;

use super::{Connection, Verdict};
use crate::{
    CONNECTION_BUFFER_BYTES, PACKET_MAX_BYTES,
    chain::ChainMemory,
    packet::{HEADER_BYTES, SHUTDOWN_RECEIVE, SHUTDOWN_SEND},
};

impl Connection {
    /// Reads from the local stream into the payload; records its end.
    pub(super) fn read_into<B: BitmapSlice>(&mut self, memory: &ChainMemory<'_, B>) -> Option<u32> {
        let stream = self.stream.as_ref()?;
        let room = memory.bytes().saturating_sub(HEADER_BYTES).min(PACKET_MAX_BYTES);
        let credit = usize::try_from(self.credit()).unwrap_or(usize::MAX);
        let wanted = room.min(credit);
        match memory.fill_from(stream, wanted) {
            Ok(0) => {
                self.host_done_sending = true;
                None
            }
            Ok(count) => {
                // A short read means that the stream is empty, and that further data or the end of
                // file causes a new event, unless the end was seen already.
                if count < wanted && !self.at_end {
                    self.readable = false;
                }
                u32::try_from(count).ok()
            }
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                None
            }
            // ECONNRESET: the peer closed with unread data of the guest. Nothing follows in either
            // direction.
            Err(_) => {
                self.host_done_sending = true;
                self.stop_receiving();
                None
            }
        }
    }

    /// Receives `len` bytes from the guest.
    pub(super) fn receive<B: BitmapSlice>(
        &mut self,
        len: u32,
        memory: &ChainMemory<'_, B>,
    ) -> Verdict {
        let outstanding = self.received.wrapping_sub(self.forwarded);
        let fits = outstanding.checked_add(len).is_some_and(|sum| sum <= CONNECTION_BUFFER_BYTES);
        if self.guest_done_sending || !fits {
            tracing::debug!(key = ?self.key, len, outstanding, "the guest broke the credit rules");
            return Verdict::Reset;
        }
        self.received = self.received.wrapping_add(len);
        let Ok(len) = usize::try_from(len) else { return Verdict::Reset };
        let mut taken = 0;
        if self.host_done_receiving {
            taken = len;
            self.count_forwarded(len);
        } else if self.backlog.is_empty() && self.writable {
            taken = self.write_through(memory, len);
        }
        if taken < len && !self.host_done_receiving {
            memory.append_to(taken, len - taken, &mut self.backlog);
        }
        self.update_credit();
        Verdict::Keep
    }

    /// Writes a payload to the local stream without a copy. Returns the number of accepted bytes.
    fn write_through<B: BitmapSlice>(&mut self, memory: &ChainMemory<'_, B>, len: usize) -> usize {
        let Some(stream) = self.stream.as_ref() else { return len };
        match memory.drain_to(stream, len) {
            Ok(count) => {
                self.writable = count == len;
                self.count_forwarded(count);
                count
            }
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                0
            }
            Err(_) => {
                self.stop_receiving();
                self.count_forwarded(len);
                len
            }
        }
    }

    /// Writes as much of the backlog as the local stream accepts.
    pub(super) fn flush(&mut self) {
        while let (false, true, Some(stream)) =
            (self.backlog.is_empty(), self.writable, self.stream.as_ref())
        {
            let (front, _) = self.backlog.as_slices();
            match send(stream.as_raw_fd(), front, MsgFlags::MSG_NOSIGNAL) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.count_forwarded(count);
                }
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => self.writable = false,
                Err(_) => self.stop_receiving(),
            }
        }
        if self.backlog.is_empty() {
            // A connection that was slow once must not keep its buffer.
            self.backlog = VecDeque::new();
            if self.guest_done_sending {
                self.shut_stream(Shutdown::Write);
            }
        }
        self.update_credit();
    }

    /// Handles the guest's announcement of the end of one or both directions.
    pub(super) fn guest_shuts(&mut self, flags: u32) -> Verdict {
        if flags & SHUTDOWN_SEND != 0 {
            self.guest_done_sending = true;
            if self.backlog.is_empty() {
                self.shut_stream(Shutdown::Write);
            }
        }
        if flags & SHUTDOWN_RECEIVE != 0 {
            self.guest_done_receiving = true;
            self.host_done_sending = true;
            self.shut_stream(Shutdown::Read);
        }
        // The two ends may be announced separately.
        if self.guest_done_sending && self.guest_done_receiving {
            return Verdict::Linger { reset: true };
        }
        Verdict::Keep
    }

    /// The host accepts no more data: the backlog is discarded and counted as forwarded, so that
    /// the guest's sender never blocks on it.
    pub(super) fn stop_receiving(&mut self) {
        self.host_done_receiving = true;
        self.count_forwarded(self.backlog.len());
        self.backlog = VecDeque::new();
    }

    fn shut_stream(&self, how: Shutdown) {
        if let Some(stream) = &self.stream {
            // ENOTCONN only means that the peer is gone already.
            let _ = stream.shutdown(how);
        }
    }
}
