//! A connection: the two directions between a guest socket and the local stream that represents it.
//!
//! ```text
//!                 host connects                       guest connects
//!                      │ send REQUEST                      │ REQUEST arrives, the policy
//!                      ▼                                   │ accepts: send RESPONSE
//!               ┌────────────┐  RESPONSE arrives     ┌─────▼──────┐
//!               │ Connecting ├──────────────────────►│    Open    │
//!               └─────┬──────┘                       └─┬───┬────┬─┘
//!       RST arrives   │                                │   │    │
//!   (stream dropped)  │   both directions ended by the │   │    │ SHUTDOWN(both) arrives, or RST
//!                     │   host: SHUTDOWN(both) sent    │   │    │ after SHUTDOWN(send)
//!                     │                    ┌───────────▼┐  │  ┌─▼─────────┐
//!                     │                    │  Farewell  │  │  │ Lingering │ tuple free again,
//!                     │                    └──────┬─────┘  │  └─────┬─────┘ backlog still goes out
//!                     ▼               RST arrives ▼        ▼ RST    ▼ backlog written
//!                   ( gone )◄─────────────────────┴────────┴────────┘
//! ```
//!
//! While it is *Open*, each direction ends independently:
//!
//! ```text
//!  guest ──► host   guest: SHUTDOWN(send)  → write the backlog, then shut the stream's write side
//!                   host closes its end    → a write fails: SHUTDOWN(receive), the rest is discarded
//!  host ──► guest   host: end of file read → SHUTDOWN(send)
//!                   guest: SHUTDOWN(receive) → shut the stream's read side
//! ```
//!
//! Credit (virtio 1.2, section 5.10.6.3) limits both directions. Towards the host, the device
//! announces [`CONNECTION_BUFFER_BYTES`]; data that the local stream does not accept at once waits
//! in `backlog`, and only accepted data counts as forwarded. A guest that exceeds its credit gets a
//! reset. Towards the guest, the device reads from the local stream only as much as the guest has
//! room for, directly into its memory, so no data is buffered in that direction.

mod stream;

use std::{collections::VecDeque, os::unix::net::UnixStream};

use vm_memory::bitmap::BitmapSlice;
use vmm_sys_util::epoll::EventSet;

use crate::{
    CONNECTION_BUFFER_BYTES,
    chain::ChainMemory,
    packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND},
};

/// A credit update is sent if the credit known to the guest falls below this: late enough to avoid
/// an update per packet, early enough that the guest never waits.
const CREDIT_LOW_BYTES: u32 = CONNECTION_BUFFER_BYTES / 2;

/// The identity of a connection, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The port on the host.
    pub(crate) host_port: u32,
    /// The port on the guest.
    pub(crate) guest_port: u32,
}

/// The state of a connection; see the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The guest has not answered the REQUEST.
    Connecting,
    /// Data flows in the directions that have not ended.
    Open,
    /// SHUTDOWN(both) was sent, and the guest's RST is pending.
    Farewell,
    /// The guest has closed the connection; only the backlog is still written to the local stream.
    Lingering,
}

/// What to do with a connection after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Keep it.
    Keep,
    /// Drop it; the guest knows its end.
    Drop,
    /// Drop it, and send RST to the guest.
    Reset,
    /// The guest has closed it: free the tuple, send RST if `reset`, and keep the connection only
    /// for its backlog.
    Linger {
        /// Whether to send RST.
        reset: bool,
    },
}

/// The result of offering a guest buffer to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emitted {
    /// A packet, without ports and context ids.
    Packet(Header),
    /// No packet.
    Nothing,
    /// No packet, and the connection ended before the guest knew of it.
    Gone,
}

/// Control packets that wait for a guest buffer.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "a set of four independent packets")]
struct Waiting {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
}

/// One connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each direction ends on its own, on both sides")]
pub(crate) struct Connection {
    pub(crate) key: Key,
    /// Whether the mux's round of senders contains it.
    pub(crate) in_round: bool,
    phase: Phase,
    /// `None` once both directions have ended.
    stream: Option<UnixStream>,
    waiting: Waiting,

    /// Whether the local stream may have data or an end of file.
    readable: bool,
    /// Whether the local stream may accept data.
    writable: bool,
    /// The peer of the local stream sends no more; data may be left.
    at_end: bool,
    /// The peer of the local stream has closed both directions.
    hung_up: bool,

    /// No more data is sent to the guest.
    host_done_sending: bool,
    /// The host accepts no more data.
    host_done_receiving: bool,
    /// The guest has announced that it sends no more.
    guest_done_sending: bool,
    /// The guest has announced that it receives no more.
    guest_done_receiving: bool,
    /// The SHUTDOWN flags sent to the guest.
    shutdown_sent: u32,

    /// Data of the guest that the local stream has not accepted yet.
    backlog: VecDeque<u8>,
    /// Bytes received from the guest, modulo 2^32.
    received: u32,
    /// Bytes written to the local stream, modulo 2^32.
    forwarded: u32,
    /// The last value of `forwarded` sent to the guest.
    forwarded_sent: u32,
    /// Bytes sent to the guest, modulo 2^32.
    sent: u32,
    /// The guest's receive buffer size, and its count of consumed bytes.
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    /// Whether CREDIT_REQUEST was sent since the credit last changed.
    credit_asked: bool,
}

impl Connection {
    /// A connection that the host opens.
    pub(crate) fn from_host(key: Key, stream: UnixStream) -> Self {
        let mut new = Self::new(key, stream, Phase::Connecting);
        new.waiting.request = true;
        new
    }

    /// A connection that the guest requested and the host accepted.
    pub(crate) fn from_guest(key: Key, stream: UnixStream, request: &Header) -> Self {
        let mut new = Self::new(key, stream, Phase::Open);
        new.waiting.response = true;
        new.learn_credit(request);
        new
    }

    fn new(key: Key, stream: UnixStream, phase: Phase) -> Self {
        Self {
            key,
            in_round: false,
            phase,
            stream: Some(stream),
            waiting: Waiting::default(),
            readable: false,
            writable: true,
            at_end: false,
            hung_up: false,
            host_done_sending: false,
            host_done_receiving: false,
            guest_done_sending: false,
            guest_done_receiving: false,
            shutdown_sent: 0,
            backlog: VecDeque::new(),
            received: 0,
            forwarded: 0,
            forwarded_sent: 0,
            sent: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            credit_asked: false,
        }
    }

    /// Whether the guest considers this connection open: it knows of it and has not closed it.
    pub(crate) fn known_to_guest(&self) -> bool {
        !self.waiting.request && self.phase != Phase::Lingering
    }

    /// Whether there is data for a guest buffer.
    pub(crate) fn wants_to_send(&self) -> bool {
        let waiting = self.waiting;
        match self.phase {
            Phase::Connecting => waiting.request,
            Phase::Open => {
                waiting.response
                    || waiting.credit_update
                    || waiting.credit_request
                    || self.shutdown_needed() != self.shutdown_sent
                    || self.can_send_data()
                    || self.must_ask_for_credit()
            }
            Phase::Farewell | Phase::Lingering => false,
        }
    }

    /// Handles a packet of the guest for this connection.
    pub(crate) fn on_packet<B: BitmapSlice>(
        &mut self,
        op: Op,
        header: &Header,
        memory: &ChainMemory<'_, B>,
    ) -> Verdict {
        match (self.phase, op) {
            (_, Op::Reset) if self.guest_done_sending => Verdict::Linger { reset: false },
            (_, Op::Reset) => Verdict::Drop,
            (Phase::Connecting, Op::Response) => {
                self.phase = Phase::Open;
                self.learn_credit(header);
                if self.hung_up {
                    self.stop_receiving();
                }
                Verdict::Keep
            }
            (Phase::Open, Op::ReadWrite) => {
                self.learn_credit(header);
                self.receive(header.len, memory)
            }
            (Phase::Open, Op::CreditUpdate) => {
                self.learn_credit(header);
                Verdict::Keep
            }
            (Phase::Open, Op::CreditRequest) => {
                self.learn_credit(header);
                self.waiting.credit_update = true;
                Verdict::Keep
            }
            (Phase::Open, Op::Shutdown) => {
                self.learn_credit(header);
                self.guest_shuts(header.flags)
            }
            // The stream is closed already: further data is discarded until the guest has processed
            // the SHUTDOWN.
            (Phase::Farewell, Op::ReadWrite | Op::CreditUpdate | Op::CreditRequest) => {
                Verdict::Keep
            }
            (Phase::Farewell, Op::Shutdown) if header.flags & SHUTDOWN_BOTH != SHUTDOWN_BOTH => {
                Verdict::Keep
            }
            _ => Verdict::Reset,
        }
    }

    /// Handles a readiness event of the local stream.
    pub(crate) fn on_stream(&mut self, events: EventSet) -> Verdict {
        let ended = EventSet::HANG_UP | EventSet::ERROR;
        if events.intersects(EventSet::IN | EventSet::READ_HANG_UP | ended) {
            self.readable = true;
        }
        if events.intersects(EventSet::READ_HANG_UP | ended) {
            self.at_end = true;
        }
        if events.intersects(EventSet::HANG_UP) {
            self.hung_up = true;
            if self.phase == Phase::Open {
                self.stop_receiving();
            }
        }
        if events.intersects(EventSet::OUT | ended) {
            self.writable = true;
            self.flush();
        }
        if self.phase == Phase::Lingering && self.backlog.is_empty() {
            return Verdict::Drop;
        }
        Verdict::Keep
    }

    /// Starts lingering. Returns `false` if there is no backlog to write.
    pub(crate) fn linger(&mut self) -> bool {
        self.phase = Phase::Lingering;
        self.waiting = Waiting::default();
        !self.backlog.is_empty()
    }

    /// Writes the next packet to `memory`, which has room for a header and at least one byte.
    pub(crate) fn emit<B: BitmapSlice>(&mut self, memory: &ChainMemory<'_, B>) -> Emitted {
        if self.phase == Phase::Connecting && self.waiting.request {
            if self.hung_up {
                return Emitted::Gone;
            }
            self.waiting.request = false;
            return self.packet(Op::Request, 0, 0);
        }
        if self.phase != Phase::Open {
            return Emitted::Nothing;
        }
        if std::mem::take(&mut self.waiting.response) {
            return self.packet(Op::Response, 0, 0);
        }
        if self.can_send_data()
            && let Some(len) = self.read_into(memory)
        {
            self.sent = self.sent.wrapping_add(len);
            return self.packet(Op::ReadWrite, len, 0);
        }
        let flags = self.shutdown_needed();
        if flags != self.shutdown_sent {
            self.shutdown_sent = flags;
            let packet = self.packet(Op::Shutdown, 0, flags);
            if flags == SHUTDOWN_BOTH {
                self.phase = Phase::Farewell;
                self.stream = None;
                self.backlog = VecDeque::new();
            }
            return packet;
        }
        if self.must_ask_for_credit() {
            self.credit_asked = true;
            self.waiting.credit_request = false;
            return self.packet(Op::CreditRequest, 0, 0);
        }
        if self.waiting.credit_update {
            return self.packet(Op::CreditUpdate, 0, 0);
        }
        Emitted::Nothing
    }

    /// A header for this connection. Every one carries the current credit.
    fn packet(&mut self, op: Op, len: u32, flags: u32) -> Emitted {
        self.waiting.credit_update = false;
        self.forwarded_sent = self.forwarded;
        Emitted::Packet(Header {
            len,
            op: op.to_wire(),
            flags,
            buf_alloc: CONNECTION_BUFFER_BYTES,
            fwd_cnt: self.forwarded,
            ..Header::default()
        })
    }

    /// The SHUTDOWN flags that the guest must get.
    fn shutdown_needed(&self) -> u32 {
        let send = if self.host_done_sending { SHUTDOWN_SEND } else { 0 };
        let receive = if self.host_done_receiving { SHUTDOWN_RECEIVE } else { 0 };
        send | receive
    }

    fn can_send_data(&self) -> bool {
        self.readable && !self.host_done_sending && self.credit() > 0
    }

    fn must_ask_for_credit(&self) -> bool {
        self.readable && !self.host_done_sending && self.credit() == 0 && !self.credit_asked
    }

    /// The guest's free buffer space in bytes. A guest that claims to have consumed more than it
    /// received has none.
    fn credit(&self) -> u32 {
        self.peer_buf_alloc.saturating_sub(self.sent.wrapping_sub(self.peer_fwd_cnt))
    }

    fn learn_credit(&mut self, header: &Header) {
        if (self.peer_buf_alloc, self.peer_fwd_cnt) != (header.buf_alloc, header.fwd_cnt) {
            self.peer_buf_alloc = header.buf_alloc;
            self.peer_fwd_cnt = header.fwd_cnt;
            self.credit_asked = false;
        }
    }

    fn count_forwarded(&mut self, bytes: usize) {
        // At most CONNECTION_BUFFER_BYTES are outstanding, so this always fits.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    fn update_credit(&mut self) {
        let used = self.received.wrapping_sub(self.forwarded_sent);
        let left = CONNECTION_BUFFER_BYTES.saturating_sub(used);
        if self.forwarded != self.forwarded_sent && left < CREDIT_LOW_BYTES {
            self.waiting.credit_update = true;
        }
    }
}
