//! The handle by which other threads ask the mux for connections. It shares
//! only a short list and an eventfd with the mux, so that asking never waits for
//! the device thread.

use std::{
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::CONNECTIONS_MAX;

/// Errors of [`Connector::connect`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The device is gone.
    #[error("the guest's vsock device is gone")]
    Gone,
    /// The limit of [`CONNECTIONS_MAX`] is reached.
    #[error("{CONNECTIONS_MAX} connections to the guest are open already")]
    TooMany,
    /// No socket pair could be made, as a rule for want of file descriptors.
    #[error("no socket pair for guest port {port}")]
    SocketPair {
        /// The port asked for.
        port: u32,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What the device has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections open now.
    pub connections: u64,
    /// Packets taken from the guest.
    pub packets_from_guest: u64,
    /// Packets given to the guest.
    pub packets_to_guest: u64,
    /// Payload bytes taken from the guest.
    pub bytes_from_guest: u64,
    /// Payload bytes given to the guest.
    pub bytes_to_guest: u64,
}

/// A connection that waits to be picked up by the mux.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) guest_port: u32,
    pub(crate) stream: UnixStream,
}

/// What [`Connector`]s and the mux share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// `None` once the mux is gone.
    asked: Mutex<Option<Vec<Asked>>>,
    pub(crate) wake: EventFd,
    pub(crate) open: AtomicUsize,
    pub(crate) packets_from_guest: AtomicU64,
    pub(crate) packets_to_guest: AtomicU64,
    pub(crate) bytes_from_guest: AtomicU64,
    pub(crate) bytes_to_guest: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            asked: Mutex::new(Some(Vec::new())),
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            open: AtomicUsize::new(0),
            packets_from_guest: AtomicU64::new(0),
            packets_to_guest: AtomicU64::new(0),
            bytes_from_guest: AtomicU64::new(0),
            bytes_to_guest: AtomicU64::new(0),
        })
    }

    /// Nothing panics while it is held, so a poisoned lock is still sound.
    fn asked(&self) -> MutexGuard<'_, Option<Vec<Asked>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Picks up what was asked for.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        self.asked().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Ends asking: what waits and what comes fails.
    pub(crate) fn close(&self) {
        *self.asked() = None;
    }
}

/// Opens connections to the guest, from any thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    pub(crate) shared: Arc<Shared>,
}

impl Connector {
    /// Opens a connection to a port of the guest. Returns at once: the stream
    /// may be written to before the guest has accepted, and a guest that refuses
    /// shows as end of file or `ECONNRESET`. The returned half is in blocking
    /// mode.
    ///
    /// # Errors
    /// When the device is gone, the limit is reached, or descriptors ran out.
    pub fn connect(&self, port: u32) -> Result<UnixStream, ConnectError> {
        let (ours, theirs) =
            UnixStream::pair().map_err(|source| ConnectError::SocketPair { port, source })?;
        self.adopt(port, theirs)?;
        Ok(ours)
    }

    /// Connects a stream that exists to a port of the guest; its other half is
    /// then as if [`Connector::connect`] had returned it.
    ///
    /// # Errors
    /// When the device is gone or the limit is reached; the stream is closed.
    pub fn adopt(&self, port: u32, stream: UnixStream) -> Result<(), ConnectError> {
        let mut asked = self.shared.asked();
        let list = asked.as_mut().ok_or(ConnectError::Gone)?;
        if list.len() + self.shared.open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            return Err(ConnectError::TooMany);
        }
        list.push(Asked { guest_port: port, stream });
        drop(asked);
        // Only a counter at its maximum fails, and then the mux is awake anyway.
        let _ = self.shared.wake.write(1);
        Ok(())
    }

    /// What the device has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        Stats {
            connections: u64::try_from(shared.open.load(Ordering::Relaxed)).unwrap_or(u64::MAX),
            packets_from_guest: shared.packets_from_guest.load(Ordering::Relaxed),
            packets_to_guest: shared.packets_to_guest.load(Ordering::Relaxed),
            bytes_from_guest: shared.bytes_from_guest.load(Ordering::Relaxed),
            bytes_to_guest: shared.bytes_to_guest.load(Ordering::Relaxed),
        }
    }
}
