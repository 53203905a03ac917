//! Kinds of addresses: what a guest may reach without being asked about, and
//! what it may not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// The internet. The documentation ranges count as such: nobody else owns
    /// them, and closed networks use them for real.
    Public,
    /// The user's own networks: RFC 1918, unique local, carrier-grade NAT,
    /// benchmarking and other special-purpose ranges.
    Private,
    /// The host itself.
    Loopback,
    /// The link, on which clouds offer credentials to whoever asks, and such
    /// services at other well-known addresses.
    LinkLocal,
    /// Nothing a TCP connection can go to.
    Unusable,
}

impl Reach {
    /// The kind in words, for messages: "… is a private address".
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address, where clouds keep their metadata",
            Self::Unusable => "no address of a host",
        }
    }
}

/// What an address leads to. Addresses that carry another one inside are judged
/// by that one.
#[must_use]
pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Loopback,
        // 100.100.100.200 and 192.0.0.192 are metadata services of clouds.
        [169, 254, ..] | [100, 100, 100, 200] | [192, 0, 0, 192] => Reach::LinkLocal,
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

fn reach_v6(address: Ipv6Addr) -> Reach {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Unusable,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        // IPv4-compatible, mapped, translated (RFC 2765), NAT64 and 6to4.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => embedded(high, low),
        // Metadata services of clouds within the unique local range, the link.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
        | [0xfe80..=0xfebf, ..] => Reach::LinkLocal,
        // Unique local, site-local, NAT64 of the own network, Teredo, discard.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..]
        | [0x64, 0xff9b, 1, ..]
        | [0x2001, 0, ..]
        | [0x100, 0, 0, 0, ..] => Reach::Private,
        [0xff00..=0xffff, ..] => Reach::Unusable,
        _ => Reach::Public,
    }
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
    fn addresses_by_kind() {
        all_are(
            Reach::Public,
            "203.0.113.7 192.0.2.1 198.51.100.1 8.8.8.8 172.15.0.1 172.32.0.1 100.63.0.1
             100.128.0.1 2606:4700::1 2001:db8::1 64:ff9b::808:808 ::ffff:8.8.8.8
             2002:808:808::1",
        );
        all_are(
            Reach::Private,
            "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 198.18.0.1
             198.19.255.255 192.0.0.8 fc00::1 fdff::1 fec0::1 ::ffff:10.0.0.1 64:ff9b::a00:1
             2002:a00:1:: 2001::1 64:ff9b:1::1",
        );
        all_are(
            Reach::Loopback,
            "127.0.0.1 127.255.0.1 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1
             2002:7f00:1:: ::ffff:0:127.0.0.1",
        );
        all_are(
            Reach::LinkLocal,
            "169.254.169.254 169.254.0.1 100.100.100.200 192.0.0.192 fe80::1 febf::1
             fd00:ec2::254 fd20:ce::254 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe",
        );
        all_are(
            Reach::Unusable,
            "0.0.0.0 0.1.2.3 224.0.0.1 255.255.255.255 240.0.0.1 :: ff02::1 ::ffff:0.0.0.0",
        );
    }
}
