//! This host's interfaces: its own addresses, and the networks that it is attached to.
//!
//! A service that listens on all addresses of the host is reachable at each of them, and the
//! firewalls of host and link seldom apply to traffic from the host itself. From the host, its
//! global addresses are therefore no more public than loopback.

use std::{io, net::IpAddr};

use ipnet::IpNet;
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    sys::socket::SockaddrStorage,
};

use crate::address::{Reach, plain, strictest};

/// The addresses and on-link prefixes of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostNetwork {
    own: Vec<IpAddr>,
    on_link: Vec<IpNet>,
}

impl HostNetwork {
    /// Reads the current interfaces of this host.
    ///
    /// # Errors
    /// Fails if the kernel does not list them.
    pub fn read() -> io::Result<Self> {
        let mut network = Self::default();
        for interface in getifaddrs()? {
            network.add(&interface);
        }
        Ok(network)
    }

    /// A host without any interface.
    pub const NONE: Self = Self { own: Vec::new(), on_link: Vec::new() };

    /// A host with these addresses and prefixes.
    #[must_use]
    pub fn new(own: Vec<IpAddr>, on_link: Vec<IpNet>) -> Self {
        Self { own, on_link }
    }

    fn add(&mut self, interface: &InterfaceAddress) {
        let Some(address) = interface.address.as_ref().and_then(ip) else { return };
        self.own.push(address);
        let mask = interface.netmask.as_ref().and_then(ip);
        let net = mask.and_then(|mask| IpNet::with_netmask(address, mask).ok());
        // A prefix length of zero is an interface without a netmask, not a link that covers the
        // internet.
        self.on_link.extend(net.filter(|net| net.prefix_len() > 0));
        // The peer of a tunnel.
        let peer = interface.destination.as_ref().and_then(ip);
        self.on_link.extend(peer.map(IpNet::from));
    }

    /// The class of an address, as seen from this host.
    #[must_use]
    pub fn reach(&self, address: IpAddr) -> Reach {
        strictest(address, |address| {
            let of_host = if self.own.contains(&address) {
                Reach::OwnHost
            } else if self.on_link.iter().any(|net| net.contains(&address)) {
                Reach::Private
            } else {
                Reach::Public
            };
            of_host.max(plain(address))
        })
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_and_links_are_not_public() {
        let network = HostNetwork::new(
            vec!["203.0.113.77".parse().unwrap(), "2001:db8:1::7".parse().unwrap()],
            vec!["203.0.113.64/26".parse().unwrap(), "2001:db8:1::/64".parse().unwrap()],
        );
        let class = |address: &str| network.reach(address.parse().unwrap());
        for own in ["203.0.113.77", "2001:db8:1::7", "::ffff:203.0.113.77", "2002:cb00:714d::1"] {
            assert_eq!(class(own), Reach::OwnHost, "{own}");
        }
        for near in ["203.0.113.65", "2001:db8:1::1", "64:ff9b::203.0.113.65"] {
            assert_eq!(class(near), Reach::Private, "{near}");
        }
        for far in ["203.0.113.1", "2001:db8:2::1"] {
            assert_eq!(class(far), Reach::Public, "{far}");
        }
        assert_eq!(class("127.0.0.1"), Reach::Loopback);
        assert_eq!(class("168.63.129.16"), Reach::Metadata);
    }

    #[test]
    fn the_hosts_interfaces_can_be_listed() {
        let network = HostNetwork::read().unwrap();
        for own in &network.own {
            assert!(network.reach(*own) > Reach::Private, "{own}");
        }
        assert!(network.on_link.iter().all(|net| net.prefix_len() > 0));
    }
}
