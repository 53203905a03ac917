//! The protocol between vbuild and its guest agent: types and framing, no
//! sockets, no I/O beyond `Read` and `Write`, no unsafe.
//!
//! One connection carries many *streams* at once. The host opens a stream by
//! sending a [`Request`] under a stream number it has not used before; the agent
//! answers with one or more [`Reply`]s under the same number; raw bytes flow as
//! data frames on one of the stream's [`Channel`]s.
//!
//! ```text
//! frame   = prefix payload
//! prefix  = u32 LE payload length | u8 kind | u8 channel | u16 LE zero | u32 LE stream
//! kind    = 1 request (JSON)  host -> agent, opens the stream
//!           2 reply   (JSON)  agent -> host; the last one has `Reply::is_final`
//!           3 data    (raw)   either way, on a channel, within the credit; never empty
//!           4 end     (empty) no more data on this channel in this direction
//!           5 credit  (u32 LE) the number of further bytes that the receiver of a channel allows
//! ```
//!
//! Flow control: each channel of each stream starts with [`INITIAL_CREDIT_BYTES`] of credit. A
//! sender never sends more bytes than its credit allows, so a slow consumer does not block other
//! streams. `end` is a frame of its own, because half-close does not survive every vsock
//! implementation.
//!
//! Stream 0 is never used. A final reply ends its stream: the agent sends all data of the stream
//! before it, and drops frames that the host still sends on the stream.

pub mod egress;
pub mod frame;
pub mod fuzzing;
pub mod message;

pub use frame::{Frame, FrameError, FrameKind, PREFIX_BYTES};
pub use message::*;

/// The version of this protocol. Both sides send it in the hello; if the versions differ, the
/// connection ends with an error that names both. Agent and host are always shipped together.
pub const PROTOCOL_VERSION: u32 = 3;

/// The prefix of a parameter on the kernel's command line that lists serials of disks, separated by
/// commas. When the agent starts, it unbinds the driver of these disks and then prints [`PARKED`]:
/// the machine is ready to be saved, and its memory contains no state of these disks.
pub const PARK_WORD: &str = "vbuild.park=";

/// The message that the agent prints on the console, after [`CONSOLE_PREFIX`], when it has carried
/// out [`PARK_WORD`].
pub const PARKED: &str = "parked";

/// The prefix of each line that the agent prints on the console.
pub const CONSOLE_PREFIX: &str = "vbuild-agent: ";

/// The vsock port on which the agent listens.
pub const AGENT_PORT: u32 = 1024;

/// The vsock port of the host to which the agent connects for the guest's network; see [`egress`]
/// for the protocol.
pub const EGRESS_PORT: u32 = 1025;

/// The maximum payload of a data frame, in bytes: what one virtio-vsock packet carries on Linux. A
/// larger frame would only add latency for other streams.
pub const DATA_MAX_BYTES: usize = 64 * 1024;

/// The maximum size of a JSON payload, in bytes. A spawn request with a large environment (128 KiB
/// is the kernel's limit for one string) must fit; a hostile agent must not fill memory.
pub const HEADER_MAX_BYTES: usize = 1024 * 1024;

/// The initial credit of a channel, in bytes: enough to keep a link of 100 MiB/s busy for the few
/// milliseconds that a credit frame takes to arrive from a TCG guest.
pub const INITIAL_CREDIT_BYTES: u32 = 1024 * 1024;

/// The maximum number of open streams of a connection; the agent refuses more.
pub const STREAMS_MAX: usize = 1024;
