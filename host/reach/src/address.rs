//! Classes of IP addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::metadata::is_metadata_service;

/// The class of an address, ordered from the least to the most protected. An address that embeds
/// another one has the greater of both classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// The internet. The documentation ranges (RFC 5737, RFC 3849) are in this class: they contain
    /// no public service, and closed networks use them.
    Public,
    /// The user's own networks: RFC 1918, unique local, carrier-grade NAT,
    /// benchmarking and other special-purpose ranges, and the prefixes of this host's
    /// interfaces.
    Private,
    /// The link of an interface.
    LinkLocal,
    /// A service that a cloud offers to its machines, often with credentials. See
    /// [`crate::METADATA_SERVICES`].
    Metadata,
    /// An address of one of this host's interfaces.
    OwnHost,
    /// This host, through its loopback interface.
    Loopback,
    /// Not the address of a host: unspecified, multicast, reserved.
    Unusable,
}

impl Reach {
    /// The class as a phrase that completes "ADDRESS is …".
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "the address of a cloud's metadata service",
            Self::OwnHost => "an address of this host",
            Self::Loopback => "a loopback address",
            Self::Unusable => "not the address of a host",
        }
    }

    /// Whether the address belongs to this host, or to services that identify the requesting host.
    /// A proxy elsewhere would reach other ones.
    #[must_use]
    pub fn is_local(self) -> bool {
        matches!(self, Self::LinkLocal | Self::Metadata | Self::OwnHost | Self::Loopback)
    }
}

/// The class of an address, without knowledge of this host's interfaces (which
/// [`crate::HostNetwork::reach`] has).
#[must_use]
pub fn reach(address: IpAddr) -> Reach {
    strictest(address, plain)
}

/// The greatest class that `judge` returns for the address and those that it embeds.
pub(crate) fn strictest(address: IpAddr, judge: impl Fn(IpAddr) -> Reach) -> Reach {
    let carried = match address {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(v6) => carried(v6),
    };
    let carried = carried.into_iter().map(|v4| judge(v4.into()));
    carried.fold(judge(address), Ord::max)
}

/// The class of the address itself, without embedded ones.
pub(crate) fn plain(address: IpAddr) -> Reach {
    if is_metadata_service(address) {
        return Reach::Metadata;
    }
    match address {
        IpAddr::V4(v4) => plain_v4(v4),
        IpAddr::V6(v6) => plain_v6(v6),
    }
}

fn plain_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Loopback,
        [169, 254, ..] => Reach::LinkLocal,
        // RFC 1918; shared space of carriers, protocol assignments, benchmarking.
        [10, ..]
        | [192, 168, ..]
        | [172, 16..=31, ..]
        | [100, 64..=127, ..]
        | [192, 0, 0, _]
        | [198, 18..=19, ..] => Reach::Private,
        // "This network", multicast, reserved and broadcast.
        [0, ..] | [224..=255, ..] => Reach::Unusable,
        _ => Reach::Public,
    }
}

fn plain_v6(address: Ipv6Addr) -> Reach {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Unusable,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        [0xfe80..=0xfebf, ..] => Reach::LinkLocal,
        // Unique local, site-local, NAT64 of the own network, Teredo, discard.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..]
        | [0x64, 0xff9b, 1, ..]
        | [0x2001, 0, ..]
        | [0x100, 0, 0, 0, ..] => Reach::Private,
        [0xff00..=0xffff, ..] => Reach::Unusable,
        _ => Reach::Public,
    }
}

/// The IPv4 addresses that an IPv6 address embeds, to which a router or the kernel may forward.
fn carried(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let pair = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // The unspecified and the loopback address look like IPv4-compatible addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        // IPv4-compatible, mapped, translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4 (RFC 3056).
        | [0x2002, high, low, ..] => vec![pair(high, low)],
        [0x64, 0xff9b, 1, ..] => carried_by_local_nat64(address),
        // Teredo (RFC 4380): the server, and the client with its bits inverted.
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            vec![pair(server_high, server_low), pair(!high, !low)]
        }
        // ISATAP (RFC 5214), in any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => vec![pair(high, low)],
        _ => Vec::new(),
    }
}

/// 64:ff9b:1::/48 is for translators of the local network (RFC 8215), whose prefix may have any
/// length that RFC 6052 permits within it. The length cannot be determined, so all interpretations
/// that give a host address are used.
fn carried_by_local_nat64(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    // Offsets of the four octets for prefixes of 48, 56, 64 and 96 bits; octet 8 is
    // reserved in the first three.
    const READINGS: [[usize; 4]; 4] =
        [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]];
    let octets = address.octets();
    let readings = READINGS.iter().map(|at| at.map(|index| octets[index]));
    let readings = readings.map(Ipv4Addr::from);
    readings.filter(|address| plain_v4(*address) != Reach::Unusable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_are(expected: Reach, addresses: &str) {
        for address in addresses.split_whitespace() {
            assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn addresses_by_class() {
        all_are(
            Reach::Public,
            "203.0.113.7 192.0.2.1 198.51.100.1 8.8.8.8 172.15.0.1 172.32.0.1 100.63.0.1
             100.128.0.1 168.63.129.15 2606:4700::1 2001:db8::1 64:ff9b::808:808
             ::ffff:8.8.8.8 2002:808:808::1 2001:db8::5efe:808:808",
        );
        all_are(
            Reach::Private,
            "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 198.18.0.1
             198.19.255.255 192.0.0.8 fc00::1 fdff::1 fec0::1 ::ffff:10.0.0.1 64:ff9b::a00:1
             2002:a00:1:: 64:ff9b:1::1 64:ff9b:1::808:808 2001:db8::5efe:10.0.0.1
             2001:db8::200:5efe:10.0.0.1",
        );
        all_are(
            Reach::Loopback,
            "127.0.0.1 127.255.0.1 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1
             2002:7f00:1:: ::ffff:0:127.0.0.1 fe80::5efe:127.0.0.1",
        );
        all_are(Reach::LinkLocal, "169.254.0.1 fe80::1 febf::1 ::ffff:169.254.0.1");
        all_are(
            Reach::Unusable,
            "0.0.0.0 0.1.2.3 224.0.0.1 255.255.255.255 240.0.0.1 :: ff02::1 ::ffff:0.0.0.0",
        );
    }

    #[test]
    fn tunnels_and_translators_of_the_own_network_are_looked_into() {
        // Teredo: a public server with a public client is still private, since it is a tunnel of
        // the local network; loopback as server or client is loopback.
        all_are(Reach::Private, "2001:0:808:808:0:0:f7f7:f7f7");
        all_are(Reach::Loopback, "2001:0:7f00:1:0:0:f7f7:f7f7 2001:0:808:808:0:0:80ff:fffe");
        // 127.0.0.1 behind prefixes of 48, 56, 64 and 96 bits.
        all_are(
            Reach::Loopback,
            "64:ff9b:1:7f00:0:100:: 64:ff9b:1:7f:0:1:: 64:ff9b:1:0:7f:0:100::
             64:ff9b:1::7f00:1",
        );
        all_are(Reach::Metadata, "64:ff9b:1::a9fe:a9fe 64:ff9b:1:a9fe:a9:fe00::");
    }
}
