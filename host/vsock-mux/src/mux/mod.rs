//! The device: both queues, all connections, one file descriptor to poll.
//!
//! ```text
//!  guest TX queue ──► drain_tx ──► Connection::on_packet ──► local stream
//!                        │ unknown tuple, refusal
//!                        ▼
//!                     replies ──┐
//!  guest RX queue ◄── fill_rx ◄─┴─ round of connections that want to send ◄── local stream
//! ```
//!
//! Streams are watched edge-triggered by the mux's own epoll instance, whose descriptor the backend
//! polls: changing interest costs no system call, and a backend polls one descriptor for any number
//! of connections.

mod rings;

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    fmt, io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{Arc, atomic::Ordering},
};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemory;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use self::rings::Again;
use crate::{
    CONNECTIONS_MAX, OnGuestConnect,
    connection::{Connection, Key, Verdict},
    connector::{Connector, Shared},
    packet::{Header, TYPE_STREAM},
};

/// Readiness events read from the kernel per call.
const EVENTS_PER_WAIT: usize = 64;
/// The first host port for connections that the host opens; lower ports are those that guests
/// connect to.
const FIRST_EPHEMERAL_PORT: u32 = 1 << 30;
/// The epoll token of the connectors' eventfd; tokens of streams contain generation and slot.
const WAKE_TOKEN: u64 = u64::MAX;

/// Errors of creating a [`Mux`].
#[derive(Debug, thiserror::Error)]
#[error("cannot create the {what} of the vsock device")]
pub struct MuxError {
    what: &'static str,
    #[source]
    source: io::Error,
}

/// What a call of [`Mux::process`] requires from the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Interrupt the guest for the RX queue.
    pub signal_rx: bool,
    /// Interrupt the guest for the TX queue.
    pub signal_tx: bool,
    /// There is more work than one call does: signal first, then call again.
    pub again: bool,
}

/// A slot for a connection. The generation distinguishes a late readiness event of a former
/// connection from one of the current connection.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// The device side of one guest's virtio-vsock device.
pub struct Mux {
    guest_cid: u64,
    on_guest_connect: OnGuestConnect,
    shared: Arc<Shared>,
    epoll: Epoll,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_key: HashMap<Key, u32>,
    /// Slots that may have data to send, each once.
    round: VecDeque<u32>,
    replies: VecDeque<Header>,
    next_port: u32,
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux")
            .field("guest_cid", &self.guest_cid)
            .field("connections", &self.by_key.len())
            .field("replies", &self.replies.len())
            .finish_non_exhaustive()
    }
}

impl AsRawFd for Mux {
    /// Readable (poll it level-triggered) if [`Mux::process`] has work for the host's side. It
    /// lives as long as the mux.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Mux {
    /// Creates the device for the guest with this context id. `on_guest_connect` decides about
    /// connections that the guest opens; it runs on the thread that calls [`Mux::process`], and
    /// must not block.
    ///
    /// # Errors
    /// Fails if the kernel provides no eventfd or epoll instance.
    pub fn new(
        guest_cid: u64,
        on_guest_connect: OnGuestConnect,
    ) -> Result<(Self, Connector), MuxError> {
        let epoll = Epoll::new().map_err(|source| MuxError { what: "epoll instance", source })?;
        let shared = Shared::new().map_err(|source| MuxError { what: "eventfd", source })?;
        epoll
            .ctl(
                ControlOperation::Add,
                shared.wake.as_raw_fd(),
                EpollEvent::new(EventSet::IN, WAKE_TOKEN),
            )
            .map_err(|source| MuxError { what: "epoll entry", source })?;
        let shared = Arc::new(shared);
        let connector = Connector { shared: Arc::clone(&shared) };
        let mux = Self {
            guest_cid,
            on_guest_connect,
            shared,
            epoll,
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            round: VecDeque::new(),
            replies: VecDeque::new(),
            next_port: FIRST_EPHEMERAL_PORT,
        };
        Ok((mux, connector))
    }

    /// The device's configuration space: the guest's context id.
    #[must_use]
    pub fn config_space(&self) -> [u8; 8] {
        self.guest_cid.to_le_bytes()
    }

    /// Does all pending work: handles readiness of local streams and requests of connectors, takes
    /// packets from `tx`, puts packets into `rx`. Must be called on a kick of either queue, and
    /// when the descriptor of [`Mux::as_raw_fd`] is readable. Queues that are not ready are
    /// skipped.
    pub fn process<M: GuestMemory>(&mut self, mem: &M, rx: &mut Queue, tx: &mut Queue) -> Progress {
        self.poll_host();
        let (tx_used, tx_again) = self.drain_tx(mem, tx);
        let (rx_used, rx_again) = self.fill_rx(mem, rx);
        // A reply that found room may have unblocked the TX queue.
        let unblocked = rx_used && tx_again == Again::WhenRepliesDrain;
        Progress {
            signal_rx: rx_used && rx.needs_notification(mem).unwrap_or(true),
            signal_tx: tx_used && tx.needs_notification(mem).unwrap_or(true),
            again: tx_again == Again::Now || rx_again || unblocked,
        }
    }

    /// Handles a device reset by the guest: ends every connection that the guest knows of. Requests
    /// of the host that the guest has not received yet stay, and so does the backlog of closed
    /// connections.
    pub fn reset(&mut self) {
        self.replies.clear();
        for index in self.occupied() {
            if self.slot_mut(index).is_some_and(|connection| connection.known_to_guest()) {
                self.remove(index);
            }
        }
    }

    fn occupied(&self) -> Vec<u32> {
        (0_u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.connection.is_some())
            .map(|(index, _)| index)
            .collect()
    }

    // ---- the host's side ---------------------------------------------------

    fn poll_host(&mut self) {
        let mut events = [EpollEvent::default(); EVENTS_PER_WAIT];
        loop {
            let count = match self.epoll.wait(0, &mut events) {
                Ok(count) => count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => {
                    tracing::error!(%cause, "cannot poll the local streams of the vsock device");
                    return;
                }
            };
            for event in &events[..count] {
                self.on_host_event(event.data(), event.event_set());
            }
            if count < EVENTS_PER_WAIT {
                return;
            }
        }
    }

    fn on_host_event(&mut self, token: u64, events: EventSet) {
        if token == WAKE_TOKEN {
            // Reading resets the counter; the only possible error is EAGAIN.
            let _ = self.shared.wake.read();
            for asked in self.shared.take_asked() {
                self.open_from_host(asked.guest_port, asked.stream);
            }
            return;
        }
        let [index, generation] = split_token(token);
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let Some(connection) = slot.connection.as_mut() else { return };
        if slot.generation != generation {
            return;
        }
        let verdict = connection.on_stream(events);
        self.settle(index, verdict);
    }

    fn open_from_host(&mut self, guest_port: u32, stream: UnixStream) {
        let Some(host_port) = self.free_port(guest_port) else { return };
        let key = Key { host_port, guest_port };
        if let Err(cause) = self.insert(key, |stream| Connection::from_host(key, stream), stream) {
            tracing::warn!(%cause, guest_port, "cannot open a connection to the guest");
        }
    }

    /// A host port that forms a new tuple with `guest_port`.
    fn free_port(&mut self, guest_port: u32) -> Option<u32> {
        // One more attempt than there can be conflicting tuples.
        for _ in 0..=CONNECTIONS_MAX {
            let host_port = self.next_port;
            // u32::MAX is VMADDR_PORT_ANY.
            self.next_port =
                if host_port >= u32::MAX - 1 { FIRST_EPHEMERAL_PORT } else { host_port + 1 };
            if !self.by_key.contains_key(&Key { host_port, guest_port }) {
                return Some(host_port);
            }
        }
        None
    }

    // ---- connections -------------------------------------------------------

    fn slot_mut(&mut self, index: u32) -> Option<&mut Connection> {
        self.slots.get_mut(index as usize)?.connection.as_mut()
    }

    /// Creates a connection for a stream: registers it with epoll, by key, and in the round.
    fn insert(
        &mut self,
        key: Key,
        make: impl FnOnce(UnixStream) -> Connection,
        stream: UnixStream,
    ) -> io::Result<()> {
        let in_use = self.slots.len() - self.free.len();
        if in_use >= CONNECTIONS_MAX {
            return Err(io::Error::other("too many connections"));
        }
        stream.set_nonblocking(true)?;
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(Slot::default());
                u32::try_from(self.slots.len() - 1).map_err(io::Error::other)?
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let watched = self.epoll.ctl(
            ControlOperation::Add,
            stream.as_raw_fd(),
            EpollEvent::new(
                EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED,
                join_token(index, slot.generation),
            ),
        );
        if let Err(cause) = watched {
            self.free.push(index);
            return Err(cause);
        }
        slot.connection = Some(make(stream));
        self.by_key.insert(key, index);
        self.count_open();
        self.enlist(index);
        Ok(())
    }

    fn remove(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let Some(connection) = slot.connection.take() else { return };
        self.forget_key(connection.key, index);
        self.free.push(index);
        self.count_open();
        // Closing the stream also removes it from the epoll instance: there is no other descriptor
        // of this end.
        drop(connection);
    }

    /// Frees a tuple, unless another connection uses it by now.
    fn forget_key(&mut self, key: Key, index: u32) {
        if let Entry::Occupied(entry) = self.by_key.entry(key)
            && *entry.get() == index
        {
            entry.remove();
        }
    }

    fn count_open(&self) {
        self.shared.open.store(self.slots.len() - self.free.len(), Ordering::Relaxed);
    }

    /// Adds a connection to the round if it has data to send.
    fn enlist(&mut self, index: u32) {
        if let Some(connection) = self.slot_mut(index)
            && !connection.in_round
            && connection.wants_to_send()
        {
            connection.in_round = true;
            self.round.push_back(index);
        }
    }

    /// Applies the verdict of a connection's handler.
    fn settle(&mut self, index: u32, verdict: Verdict) {
        let Some(connection) = self.slot_mut(index) else { return };
        let key = connection.key;
        match verdict {
            Verdict::Keep => self.enlist(index),
            Verdict::Drop => self.remove(index),
            Verdict::Reset => {
                self.remove(index);
                self.reply_reset(key, TYPE_STREAM);
            }
            Verdict::Linger { reset } => {
                let lingers = connection.linger();
                self.forget_key(key, index);
                if !lingers {
                    self.remove(index);
                }
                if reset {
                    self.reply_reset(key, TYPE_STREAM);
                }
            }
        }
    }
}

fn join_token(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

fn split_token(token: u64) -> [u32; 2] {
    let bytes = token.to_le_bytes();
    [
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    ]
}
