//! The network of a booted image: Ethernet frames of its card on one side, channels to the host's
//! egress service ([`wire::egress`]) on the other. As for machines of builds, the egress service
//! resolves names and applies the policy; this crate opens no socket.
//!
//! ```text
//!   guest's card ─ frames ─► link ─► DHCP      10.0.2.15, gateway .2, names .3
//!                                ├─► names     A 198.18.x.y stands for the name
//!                                └─► TCP SYN   held until the host has replied:
//!                                              granted: smoltcp takes it, bytes go both ways
//!                                              refused: smoltcp resets it
//! ```
//!
//! The addresses are those of QEMU's user-mode network, which images are tested with. Only TCP over
//! IPv4 and DNS are forwarded; other datagrams are answered with "port unreachable", so that
//! programs do not wait.
//!
//! Architecture invariant: everything that the guest can fill has a named limit, and only smoltcp's
//! checked parsers read the bytes of a frame.

mod dhcp;
mod egress_request;
mod flow;
pub mod fuzzing;
mod gateway;
mod link;
#[cfg(test)]
mod tests;

use std::{io, net::Ipv4Addr, os::unix::net::UnixStream};

/// The guest's address.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The gateway, implemented by this crate.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server, implemented by this crate.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Prefix length of the network in bits.
const PREFIX_BITS: u8 = 24;

/// Serves a guest's card until the other end of `frames` is closed. `frames` carries each frame
/// prefixed by its length, 32 bits in network byte order, like QEMU's `-netdev socket`.
/// `open_channel` opens a channel to the host's egress service; `None` if the host allows no more.
/// `seed` determines TCP sequence numbers.
///
/// # Errors
/// Fails if `frames` fails, or if its data is invalid.
pub fn serve(
    frames: UnixStream,
    open_channel: impl FnMut() -> Option<UnixStream>,
    seed: u64,
) -> io::Result<()> {
    gateway::Gateway::new(frames, open_channel, seed)?.run()
}
