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
//! Flow control: each channel of each stream starts with [`INITIAL_CREDIT_BYTES`]
//! of credit. A sender never has more bytes under way than it was allowed; so one
//! slow consumer never holds up the others. `end` is a frame of its own, because
//! half-close does not survive every vsock implementation.
//!
//! Stream 0 is never used. A final reply ends the stream: data of the agent
//! always precedes it, and frames that the host still sends for it are dropped.

pub mod egress;
pub mod frame;
pub mod fuzzing;
pub mod message;

pub use frame::{Frame, FrameError, FrameKind, PREFIX_BYTES};
pub use message::*;

/// The protocol's version. The hello carries it both ways, and a difference ends the
/// connection with an error that names both: agent and host always ship together.
pub const PROTOCOL_VERSION: u32 = 3;

/// The start of a word on the kernel's command line, with serials of disks behind it that are
/// separated by commas. The agent takes their driver away when it starts and says [`PARKED`]:
/// the machine is then ready to be saved, and its memory knows nothing of these disks.
pub const PARK_WORD: &str = "vbuild.park=";

/// What the agent says on the console when it has carried out [`PARK_WORD`], behind
/// [`CONSOLE_PREFIX`].
pub const PARKED: &str = "parked";

/// The start of each line that the agent says on the console.
pub const CONSOLE_PREFIX: &str = "vbuild-agent: ";

/// The vsock port on which the agent listens.
pub const AGENT_PORT: u32 = 1024;

/// The vsock port of the host to which the guest's network connects; see [`egress`] for
/// what is spoken there.
pub const EGRESS_PORT: u32 = 1025;

/// The largest payload of a data frame. 64 KiB is what one virtio-vsock packet
/// carries on Linux, so a larger frame only adds latency for its neighbours.
pub const DATA_MAX_BYTES: usize = 64 * 1024;

/// The largest JSON payload. A spawn with a large environment (128 KiB is the
/// kernel's limit for one string) must fit; a hostile agent must not fill memory.
pub const HEADER_MAX_BYTES: usize = 1024 * 1024;

/// Credit of a fresh channel: enough to keep a 100 MiB/s link busy over the
/// few milliseconds that a credit takes to come back from a TCG guest.
pub const INITIAL_CREDIT_BYTES: u32 = 1024 * 1024;

/// The most streams that may be open at once; the agent refuses more.
pub const STREAMS_MAX: usize = 1024;
