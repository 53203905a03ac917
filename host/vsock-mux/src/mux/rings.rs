//! The two rings: takes packets from the guest, and writes packets to the guest's buffers.

use std::sync::atomic::Ordering;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestMemory, bitmap::BitmapSlice};

use super::Mux;
use crate::{
    HOST_CID, PACKET_MAX_BYTES,
    chain::ChainMemory,
    connection::{Connection, Emitted, Key, Verdict},
    packet::{HEADER_BYTES, Header, Op, TYPE_STREAM},
};

/// Maximum chains per queue and call of [`Mux::process`], so that neither direction starves the
/// other; the queues of Linux guests hold 128.
const CHAINS_PER_CALL: usize = 128;
/// Maximum pending replies (RST and the like for unknown tuples) that wait for guest buffers. When
/// all are used, the TX queue is not read until the guest provides buffers, as virtio 1.2 section
/// 5.10.6.1 permits.
const REPLIES_MAX: usize = 256;

/// Whether the TX queue must be processed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// No; a kick will follow.
    No,
    /// Yes, there are more chains.
    Now,
    /// There are more chains, but pending replies block them.
    WhenRepliesDrain,
}

impl Mux {
    pub(super) fn drain_tx<M: GuestMemory>(&mut self, mem: &M, tx: &mut Queue) -> (bool, Again) {
        if !tx.ready() {
            return (false, Again::No);
        }
        // Errors of these two only cause unneeded or missing notifications; a guest with such rings
        // harms only itself.
        let _ = tx.disable_notification(mem);
        let mut used = 0;
        while used < CHAINS_PER_CALL {
            if self.replies.len() >= REPLIES_MAX {
                return (used > 0, Again::WhenRepliesDrain);
            }
            let Some(chain) = tx.pop_descriptor_chain(mem) else {
                let more = tx.enable_notification(mem).unwrap_or(false);
                // A ring with an invalid index always claims to have more: trust it only if it
                // provided a chain.
                return (used > 0, if more && used > 0 { Again::Now } else { Again::No });
            };
            let head = chain.head_index();
            match ChainMemory::readable(mem, chain) {
                Some(memory) => self.on_guest_packet(&memory),
                None => tracing::debug!("a vsock packet of the guest lies outside its memory"),
            }
            if tx.add_used(mem, head, 0).is_err() {
                tracing::debug!(head, "the guest's vsock TX ring is broken");
            }
            used += 1;
        }
        (true, Again::Now)
    }

    fn on_guest_packet<B: BitmapSlice>(&mut self, memory: &ChainMemory<'_, B>) {
        let Some(header) = memory.read_header() else { return };
        self.shared.packets_from_guest.fetch_add(1, Ordering::Relaxed);
        // The reply to a forged address would have no receiver.
        if header.src_cid != self.guest_cid || header.dst_cid != HOST_CID {
            return;
        }
        let key = Key { host_port: header.dst_port, guest_port: header.src_port };
        let payload = memory.bytes().saturating_sub(HEADER_BYTES);
        let op = Op::from_wire(header.op);
        let well_formed = header.kind == TYPE_STREAM
            && (op != Some(Op::ReadWrite)
                || usize::try_from(header.len)
                    .is_ok_and(|len| len <= payload && len <= PACKET_MAX_BYTES));
        let known = self.by_key.get(&key).copied();
        match (op, known) {
            (Some(op), Some(index)) if well_formed => {
                if op == Op::ReadWrite {
                    let bytes = u64::from(header.len);
                    self.shared.bytes_from_guest.fetch_add(bytes, Ordering::Relaxed);
                }
                let Some(connection) = self.slot_mut(index) else { return };
                let verdict = connection.on_packet(op, &header, memory);
                self.settle(index, verdict);
            }
            (Some(Op::Request), None) if well_formed => self.open_from_guest(key, &header),
            (Some(Op::Reset), None) => {}
            // A packet of another type does not concern the stream of the same tuple.
            (_, Some(index)) if header.kind == TYPE_STREAM => self.settle(index, Verdict::Reset),
            _ => self.reply_reset(key, header.kind),
        }
    }

    fn open_from_guest(&mut self, key: Key, request: &Header) {
        let Some(stream) = (self.on_guest_connect)(key.host_port) else {
            self.reply_reset(key, TYPE_STREAM);
            return;
        };
        let make = |stream| Connection::from_guest(key, stream, request);
        if let Err(cause) = self.insert(key, make, stream) {
            tracing::warn!(%cause, port = key.host_port, "a connection of the guest is refused");
            self.reply_reset(key, TYPE_STREAM);
        }
    }

    pub(super) fn reply_reset(&mut self, key: Key, kind: u16) {
        self.replies.push_back(Header {
            kind,
            op: Op::Reset.to_wire(),
            ..self.addressed(key, Header::default())
        });
    }

    fn addressed(&self, key: Key, header: Header) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: key.host_port,
            dst_port: key.guest_port,
            kind: TYPE_STREAM,
            ..header
        }
    }

    // ---- host to guest -----------------------------------------------------

    pub(super) fn fill_rx<M: GuestMemory>(&mut self, mem: &M, rx: &mut Queue) -> (bool, bool) {
        if !rx.ready() {
            return (false, false);
        }
        let _ = rx.disable_notification(mem);
        let mut used = 0;
        while !(self.replies.is_empty() && self.round.is_empty()) {
            if used >= CHAINS_PER_CALL {
                return (true, true);
            }
            let Some(chain) = rx.pop_descriptor_chain(mem) else {
                // No buffers: only now the guest must kick.
                let more = rx.enable_notification(mem).unwrap_or(false);
                return (used > 0, more && used > 0);
            };
            let head = chain.head_index();
            let written = match ChainMemory::writable(mem, chain) {
                Some(memory) if memory.bytes() > HEADER_BYTES => {
                    let Some(written) = self.next_packet(&memory) else {
                        rx.go_to_previous_position();
                        break;
                    };
                    written
                }
                _ => {
                    tracing::debug!("a vsock buffer of the guest is too small or no memory");
                    0
                }
            };
            if rx.add_used(mem, head, written).is_err() {
                tracing::debug!(head, "the guest's vsock RX ring is broken");
            }
            used += 1;
        }
        (used > 0, false)
    }

    /// Writes the next packet, in turn of the connections. Returns its length, or `None` if there
    /// is no packet.
    fn next_packet<B: BitmapSlice>(&mut self, memory: &ChainMemory<'_, B>) -> Option<u32> {
        let header = self.next_header(memory)?;
        memory.write_header(header)?;
        self.shared.packets_to_guest.fetch_add(1, Ordering::Relaxed);
        self.shared.bytes_to_guest.fetch_add(u64::from(header.len), Ordering::Relaxed);
        // The payload has at most PACKET_MAX_BYTES, so the sum fits.
        u32::try_from(HEADER_BYTES).ok()?.checked_add(header.len)
    }

    fn next_header<B: BitmapSlice>(&mut self, memory: &ChainMemory<'_, B>) -> Option<Header> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        while let Some(index) = self.round.pop_front() {
            let Some(connection) = self.slot_mut(index) else { continue };
            connection.in_round = false;
            let key = connection.key;
            match connection.emit(memory) {
                Emitted::Packet(header) => {
                    self.enlist(index);
                    return Some(self.addressed(key, header));
                }
                Emitted::Nothing => {}
                Emitted::Gone => self.remove(index),
            }
        }
        None
    }
}
