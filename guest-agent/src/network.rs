//! The guest's network. It looks like an ordinary one, but the only connection to the outside is
//! the egress channel to the host on [`wire::EGRESS_PORT`]. There is no interface to emulate and no
//! firewall to set up.
//!
//! ```text
//!  curl ─ getaddrinfo ─► UDP 53, any address ─► resolver ─ "resolve" ─► host
//!     ▲                                            │ 198.18.x.y stands for the name
//!     └─────────────────── A 198.18.x.y ◄──────────┘
//!  curl ─ connect 198.18.x.y:443 ─► every address is local (a route says so)
//!       ─► sk_lookup program ─► our listener ─ "connect name:443" ─► host
//! ```
//!
//! A route of type `local` for the whole of IPv4 makes the kernel deliver every packet to itself,
//! and a program of type `sk_lookup` gives each new connection to the agent's listener. The local
//! address of an accepted socket is the intended destination. Compared with a redirect by nftables,
//! this needs no modules, no tools and no connection tracking, which are slow under emulation.
//!
//! `dummy0` with a default route exists for programs that check whether the machine has a network
//! before they use it.

mod egress;
mod netlink;
mod redirect;
mod resolver;

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use name_service::Names;
use nix::sys::socket::{setsockopt, sockopt};
use wire::Failure;

use crate::console::say;
use crate::failure::Doing;
use crate::modules;

pub(crate) use name_service::read_query;

/// The guest's address and that of a gateway that does not exist, as in QEMU's user network.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// The length of the network prefix of the address, in bits.
const PREFIX_BITS: u8 = 24;

/// The interface for programs that check for one.
const INTERFACE: &str = "dummy0";

/// The index of `lo`: the kernel makes it first.
const LOOPBACK_INDEX: u32 = 1;

/// The port of the name service.
const RESOLVER_PORT: u16 = 53;

/// The stack size of a thread of the network, in bytes.
const THREAD_STACK_BYTES: usize = 128 * 1024;

/// A network that is up. Connections are redirected until this value is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    _redirect: OwnedFd,
}

/// Sets up the network.
pub(crate) fn up() -> Result<Network, Failure> {
    addresses()?;
    let names = Arc::new(Names::default());
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, RESOLVER_PORT))
        .doing(|| "open the resolver's port")?;
    // Answers must come from the address to which the query was sent.
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true).doing(|| "set up the resolver")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .doing(|| "open the port of the egress channel")?;
    let redirect = redirect::install(&listener)?;
    start("resolver", {
        let names = Arc::clone(&names);
        move || resolver::run(&socket, &names)
    })?;
    start("egress", move || redirect::run(&listener, &names))?;
    name_server();
    Ok(Network { _redirect: redirect })
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    thread::Builder::new()
        .name(name.into())
        .stack_size(THREAD_STACK_BYTES)
        .spawn(run)
        .map(drop)
        .doing(|| format!("start the thread `{name}`"))
}

fn addresses() -> Result<(), Failure> {
    let mut netlink = netlink::Netlink::open().doing(|| "open the routing socket")?;
    netlink.link_up("lo").doing(|| "set up `lo`")?;
    let interface = match modules::load(&["dummy".to_owned()]) {
        Ok(()) => INTERFACE,
        Err(failure) => {
            // Only programs that check for an interface are affected.
            say(&format!("no {INTERFACE}: failed to {failure}"));
            "lo"
        }
    };
    if interface == INTERFACE {
        // There is no IPv6 connection to the outside. Without an IPv6 address, programs do not even
        // query for one. A kernel without IPv6 does not have this file.
        let file = format!("/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6");
        let _ = fs::write(file, "1");
        netlink.dummy(INTERFACE).doing(|| format!("set up `{INTERFACE}`"))?;
    }
    let index = netlink::index(interface).doing(|| format!("look at `{interface}`"))?;
    netlink
        .address(index, ADDRESS, PREFIX_BITS)
        .doing(|| format!("give `{interface}` its address"))?;
    if interface == INTERFACE {
        // This comes before the route that makes all addresses local, as a gateway must not be
        // local.
        netlink.default_route(index, GATEWAY).doing(|| "set the default route")?;
    }
    netlink.everything_local(LOOPBACK_INDEX, ADDRESS).doing(|| "route everything to the agent")
}

/// Writes the resolver's address to `/etc/resolv.conf` in the agent's root. If that is not
/// possible, the existing file works as well: the resolver answers at every address.
fn name_server() {
    let path = "/etc/resolv.conf";
    // The file may be a link to one that a resolver of the distribution would write.
    let _ = fs::remove_file(path);
    let _ = fs::write(path, "nameserver 127.0.0.1\n");
}
