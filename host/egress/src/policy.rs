//! What the guest may reach. Names are checked as they are asked for, addresses
//! after resolving, and the connection goes to the checked address: a name that
//! resolves to another address a moment later changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::protocol::Refusal;

/// The longest name (RFC 1035 section 2.3.4).
const NAME_MAX_BYTES: usize = 253;

/// What is allowed.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    allow_private: bool,
}

/// One `--allow-host`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// Lower case; for `*.example.org` the suffix `.example.org`.
    name: String,
    suffix: bool,
    port: Option<u16>,
}

/// An allowed host that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host to allow: use NAME, *.NAME, an address, each with or without :PORT")]
pub struct InvalidRule(pub String);

impl Policy {
    /// The policy of `--allow-host` (none: every public host) and
    /// `--allow-private`.
    ///
    /// # Errors
    /// For a host that cannot be understood.
    pub fn new(allow_hosts: &[String], allow_private: bool) -> Result<Self, InvalidRule> {
        let rules = allow_hosts.iter().map(|text| Rule::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { rules, allow_private })
    }

    /// Whether a host may be asked for by this name; gives whether it was named
    /// explicitly, which allows private addresses too.
    pub(crate) fn check_name(&self, host: &str, port: Option<u16>) -> Result<bool, Refusal> {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || host.len() > NAME_MAX_BYTES || !host.bytes().all(fine) {
            return Err(Refusal::policy("the name is no host name"));
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if self.rules.iter().any(|rule| rule.allows(&host, port)) {
            return Ok(true);
        }
        if self.rules.is_empty() {
            return Ok(false);
        }
        Err(Refusal::policy(format!("{host} is not among the hosts given by --allow-host")))
    }

    /// Whether an address may be connected to.
    pub(crate) fn check_address(&self, address: IpAddr, named: bool) -> Result<(), Refusal> {
        match special(address) {
            Some(what) if !(named || self.allow_private) => Err(Refusal::policy(format!(
                "{address} is {what}; --allow-host or --allow-private allows it"
            ))),
            _ => Ok(()),
        }
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, InvalidRule> {
        let invalid = || InvalidRule(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { name: address.to_string(), suffix: false, port: None });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let (name, suffix) = match name.strip_prefix('*') {
            Some(rest) if rest.starts_with('.') => (rest, true),
            Some(_) => return Err(invalid()),
            None => (name, false),
        };
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        if name.is_empty() || !name.bytes().all(fine) {
            return Err(invalid());
        }
        Ok(Self { name: name.to_ascii_lowercase(), suffix, port })
    }

    fn allows(&self, host: &str, port: Option<u16>) -> bool {
        let name = if self.suffix { host.ends_with(&self.name) } else { host == self.name };
        // A name that is only resolved has no port yet.
        name && (self.port.is_none() || port.is_none() || self.port == port)
    }
}

/// What makes an address one that a guest has no business with. Documentation
/// ranges (RFC 5737) are left alone: closed networks use them for real.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, ..] = address.octets();
    if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_link_local() {
        Some("a link-local address, where clouds keep their metadata")
    } else if address.is_private() {
        Some("a private address")
    } else if a == 100 && (64..128).contains(&b) {
        Some("a shared address of a provider")
    } else if a == 0 || address.is_broadcast() || address.is_multicast() || a >= 240 {
        Some("no address of a host")
    } else if a == 198 && (18..20).contains(&b) {
        Some("a placeholder address")
    } else {
        None
    }
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return special_v4(mapped);
    }
    let segments = address.segments();
    if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let [.., a, b, c, d] = address.octets();
        return special_v4(Ipv4Addr::new(a, b, c, d));
    }
    if address.is_loopback() || address.is_unspecified() {
        Some("a loopback address")
    } else if segments[0] & 0xfe00 == 0xfc00 {
        Some("a private address")
    } else if segments[0] & 0xffc0 == 0xfe80 {
        Some("a link-local address")
    } else if address.is_multicast() {
        Some("no address of a host")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(hosts: &[&str], private: bool) -> Policy {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        Policy::new(&hosts, private).unwrap()
    }

    #[test]
    fn addresses() {
        let open = policy(&[], false);
        for bad in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.100.100.200",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
        ] {
            assert!(open.check_address(bad.parse().unwrap(), false).is_err(), "{bad}");
            assert!(open.check_address(bad.parse().unwrap(), true).is_ok(), "{bad}");
            assert!(policy(&[], true).check_address(bad.parse().unwrap(), false).is_ok(), "{bad}");
        }
        for good in ["203.0.113.80", "8.8.8.8", "2001:4860::1", "64:ff9b::8.8.8.8"] {
            assert!(open.check_address(good.parse().unwrap(), false).is_ok(), "{good}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(policy(&[], false).check_name("deb.example.org", Some(80)), Ok(false));
        for bad in ["", "a b", "a/b", "x\n", &"x".repeat(300)] {
            assert!(policy(&[], false).check_name(bad, Some(80)).is_err(), "{bad:?}");
        }
        let some = policy(&["Deb.Example.org:80", "*.pypi.test", "10.0.0.1"], false);
        assert_eq!(some.check_name("deb.example.org.", Some(80)), Ok(true));
        assert_eq!(some.check_name("deb.example.org", None), Ok(true));
        assert!(some.check_name("deb.example.org", Some(443)).is_err());
        assert_eq!(some.check_name("files.pypi.test", Some(443)), Ok(true));
        assert!(some.check_name("pypi.test", Some(443)).is_err());
        assert_eq!(some.check_name("10.0.0.1", Some(22)), Ok(true));
        assert!(some.check_name("other.example", Some(80)).is_err());
        for bad in ["", "*", "*x.org", "a b", "x:y", "x:99999"] {
            assert!(Policy::new(&[bad.to_owned()], false).is_err(), "{bad:?}");
        }
    }
}
