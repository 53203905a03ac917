//! The network of a booted image: Ethernet frames of its card on one side, streams to the
//! host's door ([`wire::egress`]) on the other. What a name means and what may be reached is
//! decided behind the door, as for the machines of builds; nothing here opens a socket.
//!
//! ```text
//!   guest's card ─ frames ─► link ─► DHCP      10.0.2.15, gateway .2, names .3
//!                                ├─► names     A 198.18.x.y stands for the name
//!                                └─► TCP SYN   held until the door has answered:
//!                                              granted: smoltcp takes it, bytes go both ways
//!                                              refused: smoltcp resets it
//! ```
//!
//! The addresses are those of QEMU's user-mode network, which images are used to. Only TCP
//! over IPv4 and the name service lead anywhere; other datagrams are answered by "port
//! unreachable", so that programs do not wait for them.
//!
//! Architecture invariant: everything that the guest can fill has a limit with a name, and
//! no byte of a frame is looked at but by smoltcp's checked readers.

mod dhcp;
mod door;
mod flow;
pub mod fuzzing;
mod gateway;
mod link;
#[cfg(test)]
mod tests;

use std::{io, net::Ipv4Addr, os::unix::net::UnixStream};

/// The guest's address.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The gateway, which is this crate.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server, which is this crate, too.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Bits of an address that name the network.
const PREFIX_BITS: u8 = 24;

/// Serves a guest's card until the other end of `frames` is closed. `frames` carries each
/// frame behind its length, 32 bits in network order, as QEMU's `-netdev socket` does.
/// `open_door` opens a stream to the host's door; `None` when the host gives no more.
/// `seed` decides the sequence numbers of TCP.
///
/// # Errors
/// When `frames` fails, or carries what no card sends.
pub fn serve(
    frames: UnixStream,
    open_door: impl FnMut() -> Option<UnixStream>,
    seed: u64,
) -> io::Result<()> {
    gateway::Gateway::new(frames, open_door, seed)?.run()
}
