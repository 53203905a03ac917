//! The device side of virtio-vsock: one guest's connections, multiplexed onto
//! local socket pairs.
//!
//! A backend owns the queues and the guest's memory; a [`Mux`] owns everything else. It does not
//! depend on KVM, QEMU or vhost, so vbuild's own VMM runs it in process and the vhost-user backend
//! runs it beside QEMU:
//!
//! ```text
//!   loop {
//!       wait for: a kick of the RX queue, a kick of the TX queue, mux.as_raw_fd() readable
//!       loop {
//!           let progress = mux.process(&memory, &mut rx, &mut tx);
//!           interrupt the guest for the queues named in progress
//!           if !progress.again { break }
//!       }
//!   }
//! ```
//!
//! The host end of a connection is one end of a `UnixStream::pair()`: no socket files, no text
//! protocol, no name clashes. [`Connector::connect`] opens a connection to a guest port from any
//! thread; the closure passed to [`Mux::new`] decides about connections that the guest opens.
//!
//! The device offers `VIRTIO_F_VERSION_1`, `VIRTIO_RING_F_EVENT_IDX` and
//! `VIRTIO_RING_F_INDIRECT_DESC` (see [`FEATURES`]). Linux then has 128 receive
//! buffers in flight instead of 64 and gets one interrupt per batch.
//!
//! Writes to a closed stream must fail with `EPIPE` instead of killing the process, so `SIGPIPE`
//! must be ignored, as it is in Rust programs by default.
//!
//! Architecture invariant: this crate has no `unsafe` code, no threads and no socket files, and no
//! guest data can make it panic or loop.

mod chain;
mod connection;
mod connector;
mod mux;
mod packet;
#[cfg(test)]
mod tests;

pub use connector::{ConnectError, Connector, Stats};
pub use mux::{Mux, MuxError, Progress};

use std::{os::unix::net::UnixStream, sync::Arc};

/// The context id of the host (`VMADDR_CID_HOST`).
pub const HOST_CID: u64 = 2;
/// The context id of every guest: the first that is not reserved. Guests of different machines
/// never see each other.
pub const GUEST_CID: u64 = 3;
/// The virtio device id of a vsock device (virtio 1.2, section 5.10.1).
pub const DEVICE_ID: u32 = 19;
/// Number of queues: RX, TX and event queue, in this order.
pub const QUEUES: usize = 3;
/// The index of the queue that carries packets to the guest.
pub const RX_QUEUE: usize = 0;
/// The index of the queue that carries packets from the guest.
pub const TX_QUEUE: usize = 1;
/// The index of the event queue. Its only event, transport reset, reports a migration, which never
/// happens here, so its buffers are never used.
pub const EVENT_QUEUE: usize = 2;
/// The size of each queue: QEMU's fixed size for vhost-user-vsock devices.
pub const QUEUE_SIZE: u16 = 128;
/// The feature bits to offer: `VIRTIO_F_VERSION_1`, `VIRTIO_RING_F_EVENT_IDX`,
/// `VIRTIO_RING_F_INDIRECT_DESC`.
pub const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28;

/// Maximum open connections, both directions together. A build has one for its agent and one per
/// network connection of its scripts; parallel downloads stay below a hundred. With
/// [`CONNECTION_BUFFER_BYTES`], this limits the host's buffers for a hostile guest to 128 MiB.
pub const CONNECTIONS_MAX: usize = 1024;
/// The receive buffer announced for each connection. At 100 MiB/s it holds 1.2 ms of data, several
/// times the latency of a guest under TCG; the socket pair behind it holds about 200 KiB more.
pub const CONNECTION_BUFFER_BYTES: u32 = 128 * 1024;
/// Maximum payload of one packet in either direction (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE` of Linux).
pub const PACKET_MAX_BYTES: usize = 64 * 1024;

/// Decides about a connection that the guest opens to a port of the host: `Some` connects the guest
/// to this end of a socket pair, `None` refuses with RST. Called on the device thread; it must
/// return at once.
pub type OnGuestConnect = Arc<dyn Fn(u32) -> Option<UnixStream> + Send + Sync>;
