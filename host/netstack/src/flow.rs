//! A TCP connection of the guest: bytes between a socket of smoltcp and a door that has
//! granted it.

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

/// Bytes that a connection holds in each direction. One packet of TCP without window
/// scaling announces no more.
pub(crate) const BUFFER_BYTES: usize = 64 << 10;

/// The host's half of a connection.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) handle: SocketHandle,
    door: UnixStream,
    /// Whether the server has said everything.
    door_ended: bool,
    /// Whether the server was told that the guest has said everything.
    guest_ended: bool,
}

impl Flow {
    pub(crate) fn new(handle: SocketHandle, door: UnixStream) -> Self {
        Self { handle, door, door_ended: false, guest_ended: false }
    }

    /// What is to be waited for; `None` when only the guest can bring it forward.
    pub(crate) fn interest(&self, socket: &tcp::Socket<'_>) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.door_ended && socket.can_send());
        flags.set(PollFlags::POLLOUT, socket.can_recv());
        (!flags.is_empty()).then(|| (self.door.as_fd(), flags))
    }

    /// Moves bytes both ways as far as that is possible now. `true` when the connection is
    /// over on both sides.
    pub(crate) fn advance(&mut self, socket: &mut tcp::Socket<'_>) -> bool {
        if self.exchange(socket).is_err() {
            // The guest sees a reset.
            socket.abort();
        }
        match socket.state() {
            State::Closed => true,
            State::TimeWait => self.door_ended && self.guest_ended,
            _ => false,
        }
    }

    fn exchange(&mut self, socket: &mut tcp::Socket<'_>) -> io::Result<()> {
        while socket.can_recv() {
            let sent = socket.recv(|bytes| match self.door.write(bytes) {
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
            self.door.shutdown(Shutdown::Write)?;
        }
        while !self.door_ended && socket.can_send() {
            let received = socket.send(|room| match self.door.read(room) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match received {
                Ok(Ok(0)) => {
                    self.door_ended = true;
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
