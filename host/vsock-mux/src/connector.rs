//! The handle by which other threads request connections from the mux. It shares only a short list
//! and an eventfd with the mux, so a request never waits for the device thread.

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
    /// A socket pair cannot be created, usually for lack of file descriptors.
    #[error("no socket pair for guest port {port}")]
    SocketPair {
        /// The requested port.
        port: u32,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The counters of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Connections open now.
    pub connections: u64,
    /// Packets received from the guest.
    pub packets_from_guest: u64,
    /// Packets sent to the guest.
    pub packets_to_guest: u64,
    /// Payload bytes received from the guest.
    pub bytes_from_guest: u64,
    /// Payload bytes sent to the guest.
    pub bytes_to_guest: u64,
}

/// A requested connection that the mux has not picked up yet.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) guest_port: u32,
    pub(crate) stream: UnixStream,
}

/// State shared by [`Connector`]s and the mux.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The pending requests; `None` once the mux is gone.
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

    /// Locks the list. No code panics while it holds the lock, so a poisoned one is still
    /// consistent.
    fn asked(&self) -> MutexGuard<'_, Option<Vec<Asked>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the pending requests.
    pub(crate) fn take_asked(&self) -> Vec<Asked> {
        self.asked().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Closes the list: pending and later requests fail.
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
    /// Opens a connection to a port of the guest. Returns at once: the stream may be written before
    /// the guest has accepted, and if the guest refuses, reading gives end of file or `ECONNRESET`.
    /// The returned end is in blocking mode.
    ///
    /// # Errors
    /// Fails if the device is gone, the limit is reached, or no descriptors are left.
    pub fn connect(&self, port: u32) -> Result<UnixStream, ConnectError> {
        let (ours, theirs) =
            UnixStream::pair().map_err(|source| ConnectError::SocketPair { port, source })?;
        self.adopt(port, theirs)?;
        Ok(ours)
    }

    /// Connects an existing stream to a port of the guest; its peer then behaves as if
    /// [`Connector::connect`] had returned it.
    ///
    /// # Errors
    /// Fails if the device is gone or the limit is reached; the stream is then closed.
    pub fn adopt(&self, port: u32, stream: UnixStream) -> Result<(), ConnectError> {
        let mut asked = self.shared.asked();
        let list = asked.as_mut().ok_or(ConnectError::Gone)?;
        if list.len() + self.shared.open.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            return Err(ConnectError::TooMany);
        }
        list.push(Asked { guest_port: port, stream });
        drop(asked);
        // Fails only if the counter is at its maximum; then the mux is awake anyway.
        let _ = self.shared.wake.write(1);
        Ok(())
    }

    /// The current counters of the device.
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
