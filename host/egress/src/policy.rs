//! Who may be reached: the user's rules on names and addresses.
//!
//! | the user said | names | addresses |
//! |---|---|---|
//! | nothing | all | public ones |
//! | `--allow-host NAME[:PORT]` | only those listed | for this name also private ones and the host itself |
//! | `--allow-host *.SUFFIX[:PORT]` | only those listed | public ones |
//! | `--allow-host ADDRESS[:PORT]` | | this address, whatever it is |
//! | `--allow-private` | | private ones as well |
//!
//! Names are checked before they are resolved, and each address after; the
//! connection goes to the checked address. A name that resolves to another one
//! a moment later changes nothing.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{
    address::{Reach, reach},
    protocol::Refusal,
};

/// The longest name (RFC 1035 section 2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// The longest label of a name (the same section).
const MAX_LABEL_BYTES: usize = 63;

/// A host as a request names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name, in lower case and without a final dot.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Text that is neither a name nor an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no host name: {reason}")]
pub struct InvalidHost {
    /// The text, printable and bounded.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl InvalidHost {
    fn new(text: &str, reason: &'static str) -> Self {
        let text = text.chars().take(80).flat_map(char::escape_default).collect();
        Self { text, reason }
    }
}

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let invalid = |reason| Err(InvalidHost::new(text, reason));
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return invalid("it is empty or too long");
        }
        for label in name.split('.') {
            let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            if !(1..=MAX_LABEL_BYTES).contains(&label.len()) || !label.as_bytes().iter().all(good) {
                return invalid("it has a label that no name has");
            }
        }
        // `127.1` and `0x7f000001` mean addresses to old resolvers and to
        // proxies; only the usual notation passes for one here.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hexadecimal = last.to_ascii_lowercase().starts_with("0x");
        if hexadecimal || last.bytes().all(|b| b.is_ascii_digit()) {
            return invalid("it is an address in an unusual notation");
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

/// One entry of the user's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pattern: Pattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exact(Host),
    /// Names below this one, which itself is not meant.
    Below(String),
}

/// An allowed host that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{rule}` is no host to allow: {reason}")]
pub struct InvalidRule {
    /// The text.
    pub rule: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl FromStr for Rule {
    type Err = InvalidRule;

    /// Reads `NAME`, `*.SUFFIX` or an address, each with an optional `:PORT`;
    /// IPv6 addresses with a port stand in brackets.
    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let invalid = |reason| InvalidRule { rule: text.to_owned(), reason };
        let (host, port) = match text.rsplit_once(':') {
            // More colons are an address without a port.
            Some((host, _)) if host.contains(':') && !host.ends_with(']') => (text, None),
            Some((host, port)) => {
                let port = port.parse().ok().filter(|p| *p != 0);
                (host, Some(port.ok_or_else(|| invalid("its port is no number from 1 to 65535"))?))
            }
            None => (text, None),
        };
        let parse = |host: &str| host.parse().map_err(|e: InvalidHost| invalid(e.reason));
        let pattern = match host.strip_prefix("*.") {
            None => Pattern::Exact(parse(host)?),
            Some(suffix) => match parse(suffix)? {
                Host::Name(name) => Pattern::Below(name),
                Host::Address(_) => return Err(invalid("addresses have nothing below them")),
            },
        };
        Ok(Self { pattern, port })
    }
}

impl Rule {
    fn matches(&self, host: &Host, port: Option<u16>) -> bool {
        let host_matches = match (&self.pattern, host) {
            (Pattern::Exact(rule), host) => rule == host,
            (Pattern::Below(suffix), Host::Name(name)) => {
                name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
            }
            (Pattern::Below(_), Host::Address(_)) => false,
        };
        // A name that is only resolved has no port yet.
        host_matches && (self.port.is_none() || port.is_none() || self.port == port)
    }
}

/// The user's rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// If not empty, only these hosts may be reached.
    rules: Vec<Rule>,
    /// Whether addresses of private networks may be reached.
    allow_private: bool,
}

impl Policy {
    /// The policy of `--allow-host` (none: every public host) and
    /// `--allow-private`.
    ///
    /// # Errors
    /// For a host that cannot be understood.
    pub fn new(allow_hosts: &[String], allow_private: bool) -> Result<Self, InvalidRule> {
        let rules = allow_hosts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(Self { rules, allow_private })
    }

    /// Whether a host may be asked for at all, before it is resolved.
    ///
    /// # Errors
    /// When the list does not name it, or it is an address that is refused.
    pub fn check_host(&self, host: &Host, port: Option<u16>) -> Result<(), Refusal> {
        if !self.rules.is_empty() && !self.rules.iter().any(|r| r.matches(host, port)) {
            let target = match port {
                Some(port) => format!("{host}:{port}"),
                None => host.to_string(),
            };
            let message = format!("{target} is not among the hosts given by --allow-host");
            return Err(Refusal::policy(message));
        }
        match host {
            Host::Address(address) => self.check_address(host, port, *address),
            Host::Name(_) => Ok(()),
        }
    }

    /// Whether this address may be connected to for this host.
    ///
    /// # Errors
    /// When it may not; the message says what the address is and which option
    /// would allow it.
    pub fn check_address(
        &self,
        host: &Host,
        port: Option<u16>,
        address: IpAddr,
    ) -> Result<(), Refusal> {
        let kind = reach(address);
        let exact = |r: &&Rule| matches!(r.pattern, Pattern::Exact(_));
        let named = self.rules.iter().filter(exact).any(|r| r.matches(host, port));
        let literal = named && matches!(host, Host::Address(_));
        let allowed = match kind {
            Reach::Public => true,
            Reach::Private => named || self.allow_private,
            Reach::Loopback => named,
            Reach::LinkLocal => literal,
            Reach::Unusable => false,
        };
        if allowed {
            return Ok(());
        }
        let what = match host {
            Host::Name(name) => format!("{name} resolves to {address}, which is "),
            Host::Address(_) => format!("{address} is "),
        };
        let remedy = match kind {
            Reach::Private => format!("; --allow-host {host} or --allow-private allows it"),
            Reach::Loopback => format!("; --allow-host {host} allows it"),
            Reach::LinkLocal => format!("; --allow-host {address} allows it"),
            Reach::Public | Reach::Unusable => String::new(),
        };
        Err(Refusal::policy(format!("{what}{}{remedy}", kind.describe())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[&str], allow_private: bool) -> Policy {
        let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
        Policy::new(&rules, allow_private).unwrap()
    }

    fn verdict(policy: &Policy, host: &str, port: u16, address: &str) -> bool {
        let host: Host = host.parse().unwrap();
        let address = address.parse().unwrap();
        policy.check_host(&host, Some(port)).is_ok()
            && policy.check_address(&host, Some(port), address).is_ok()
    }

    #[test]
    fn hosts_are_read_strictly() {
        let name = |text: &str| text.parse::<Host>().map(|h| h.to_string());
        assert_eq!(name("Deb.Example.").unwrap(), "deb.example");
        assert_eq!(name("[::1]").unwrap(), "::1");
        assert_eq!(name("_srv.a-b.c").unwrap(), "_srv.a-b.c");
        let long = ["a"; 200].join(".");
        for bad in ["", ".", "a..b", "a b", "a/b", "ä.example", "127.1", "0x7f.0x1", &long] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for bad in ["2130706433", "0x7f000001", "1.2.3.4.5", "a\u{0}b", "-.-.0x1F", "x\n"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_is_everything_public() {
        let policy = Policy::default();
        assert!(verdict(&policy, "a.example", 443, "203.0.113.9"));
        assert!(verdict(&policy, "8.8.8.8", 53, "8.8.8.8"));
        for address in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd00::1", "0.0.0.0"] {
            assert!(!verdict(&policy, "a.example", 443, address), "{address}");
            assert!(!verdict(&policy, address, 443, address), "{address}");
        }
    }

    #[test]
    fn a_list_narrows_and_trusts_the_names_it_spells_out() {
        let policy = policy(&["deb.example", "*.cdn.example:443", "169.254.169.254:80"], false);
        assert!(verdict(&policy, "deb.example", 80, "203.0.113.9"));
        assert!(verdict(&policy, "deb.example", 80, "10.0.0.1"));
        assert!(verdict(&policy, "deb.example", 80, "127.0.1.1"));
        assert!(!verdict(&policy, "deb.example", 80, "169.254.169.254"));
        assert!(verdict(&policy, "a.b.cdn.example", 443, "203.0.113.9"));
        assert!(!verdict(&policy, "a.cdn.example", 443, "10.0.0.1"));
        assert!(!verdict(&policy, "a.cdn.example", 80, "203.0.113.9"));
        assert!(!verdict(&policy, "cdn.example", 443, "203.0.113.9"));
        assert!(!verdict(&policy, "evilcdn.example", 443, "203.0.113.9"));
        assert!(!verdict(&policy, "other.example", 443, "203.0.113.9"));
        assert!(verdict(&policy, "169.254.169.254", 80, "169.254.169.254"));
        assert!(!verdict(&policy, "169.254.169.254", 81, "169.254.169.254"));
    }

    #[test]
    fn private_networks_on_request_and_nothing_more() {
        let policy = policy(&[], true);
        assert!(verdict(&policy, "nas.example", 80, "192.168.1.1"));
        assert!(verdict(&policy, "fd00::1", 80, "fd00::1"));
        assert!(!verdict(&policy, "a.example", 80, "127.0.0.1"));
        assert!(!verdict(&policy, "a.example", 80, "169.254.169.254"));
    }

    #[test]
    fn rules_are_read_strictly() {
        for good in ["a", "a:1", "*.a.b", "1.2.3.4:80", "::1", "[::1]:80", "2001:db8::1"] {
            assert!(good.parse::<Rule>().is_ok(), "{good}");
        }
        for bad in ["", "*", "*.", "*x.org", "a:", "a:0", "a:65536", "*.1.2.3.4", "a.*.b"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
        for bad in ["[::1]:x", "http://a", "a b"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals_say_what_would_allow_it() {
        let host: Host = "nas.example".parse().unwrap();
        let address = "192.168.1.1".parse().unwrap();
        let refused = Policy::default().check_address(&host, Some(80), address).unwrap_err();
        assert_eq!(
            refused.message,
            "nas.example resolves to 192.168.1.1, which is a private address; \
             --allow-host nas.example or --allow-private allows it"
        );
        let refused = policy(&["a"], false).check_host(&host, Some(80)).unwrap_err();
        assert_eq!(refused.message, "nas.example:80 is not among the hosts given by --allow-host");
    }
}
