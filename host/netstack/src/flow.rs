//! A TCP connection of the guest: bytes between a smoltcp socket and a channel that the host has
//! granted.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use nix::poll::PollFlags;
use smoltcp::{
    iface::SocketHandle,
    socket::tcp::{self, State},
};

use crate::link::is_not_now;

/// Buffer size per direction in bytes: the largest TCP window without window scaling.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;

/// The host's half of a connection.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) handle: SocketHandle,
    channel: UnixStream,
    /// Whether the server has closed its direction.
    server_ended: bool,
    /// Whether the guest's close was passed on to the server.
    guest_ended: bool,
}

impl Flow {
    pub(crate) fn new(handle: SocketHandle, channel: UnixStream) -> Self {
        Self { handle, channel, server_ended: false, guest_ended: false }
    }

    /// The descriptor and events to poll for; `None` if only the guest can make progress.
    pub(crate) fn interest(&self, socket: &tcp::Socket<'_>) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.server_ended && socket.can_send());
        flags.set(PollFlags::POLLOUT, socket.can_recv());
        (!flags.is_empty()).then(|| (self.channel.as_fd(), flags))
    }

    /// Transfers bytes in both directions as far as possible without blocking. Returns `true` once
    /// both directions are closed.
    pub(crate) fn advance(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        if self.exchange(socket).is_err() {
            // The guest gets a reset.
            socket.abort();
        }
        match socket.state() {
            State::Closed => true,
            State::TimeWait => self.server_ended && self.guest_ended,
            _ => false,
        }
    }

    fn exchange(&mut self, socket: &mut tcp::Socket<'_>) -> io::Result<()> {
        while socket.can_recv() {
            let sent = socket.recv(|bytes| match self.channel.write(bytes) {
                Ok(count) => (count, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_not_now(&error) => break,
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        let is_over = !socket.may_recv() && !socket.can_recv();
        if is_over && !self.guest_ended && socket.state() != State::SynReceived {
            self.guest_ended = true;
            self.channel.shutdown(Shutdown::Write)?;
        }
        while !self.server_ended && socket.can_send() {
            let received = socket.send(|room| match self.channel.read(room) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match received {
                Ok(Ok(0)) => {
                    self.server_ended = true;
                    socket.close();
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) if is_not_now(&error) => break,
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }
}
