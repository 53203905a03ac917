//! The user's rules on names and addresses that the guest may reach.
//!
//! | the user said | names | addresses behind a name |
//! |---|---|---|
//! | nothing | all but those of private networks | public ones |
//! | `--allow-host NAME[:PORT]` | only those listed | public ones |
//! | `--allow-host *.SUFFIX[:PORT]` | only those listed | public ones |
//! | `--allow-host NAME[:PORT]=ADDRESS` | only those listed | this one, whatever it is; the name is not resolved |
//! | `--allow-host ADDRESS[:PORT]` | | this address, whatever it is, when asked for as such |
//! | `--allow-private` | those of private networks as well | private ones as well |
//! | `--proxy-resolves` | | those that the user's proxy finds |
//!
//! A name that the user allows may be requested. This does not allow the owner of the domain to
//! choose any address: loopback, the host's own addresses, link-local addresses and metadata
//! services must be allowed as addresses.
//!
//! Names are checked before they are resolved, and each address afterwards. The connection goes to
//! the checked address, also through a proxy, so a later change of the name's addresses has no
//! effect.

use std::{net::IpAddr, str::FromStr};

use reach::{Host, HostNetwork, InvalidHost, LocalName, Reach, local_name};

use wire::egress::Refusal;

/// An entry of the user's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pattern: Pattern,
    port: Option<u16>,
    /// The address of the name, which replaces the resolver's answer.
    address: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exact(Host),
    /// Names below this one, but not this one.
    Below(String),
}

/// An invalid entry of the list of allowed hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{rule}` is not a host to allow: {reason}")]
pub struct InvalidRule {
    /// The text.
    pub rule: String,
    /// The reason.
    pub reason: &'static str,
}

impl FromStr for Rule {
    type Err = InvalidRule;

    /// Parses `NAME`, `*.SUFFIX` or an address, each with an optional `:PORT`, and a name also with
    /// an optional final `=ADDRESS`. IPv6 addresses with a port need brackets.
    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let invalid = |reason| InvalidRule { rule: text.to_owned(), reason };
        let parse = |host: &str| host.parse().map_err(|e: InvalidHost| invalid(e.reason));
        let (target, address) = match text.split_once('=') {
            None => (text, None),
            Some((target, address)) => match parse(address)? {
                Host::Address(address) => (target, Some(address)),
                Host::Name(_) => return Err(invalid("what follows `=` is not an address")),
            },
        };
        let (host, port) = match target.rsplit_once(':') {
            // More than one colon means an IPv6 address without a port.
            Some((host, _)) if host.contains(':') && !host.ends_with(']') => (target, None),
            Some((host, port)) => {
                let port = port.parse().ok().filter(|p| *p != 0);
                (
                    host,
                    Some(port.ok_or_else(|| invalid("its port is not a number from 1 to 65535"))?),
                )
            }
            None => (target, None),
        };
        let pattern = match host.strip_prefix("*.") {
            None => Pattern::Exact(parse(host)?),
            Some(suffix) => match parse(suffix)? {
                Host::Name(name) => Pattern::Below(name),
                Host::Address(_) => return Err(invalid("addresses have nothing below them")),
            },
        };
        if address.is_some() && !matches!(pattern, Pattern::Exact(Host::Name(_))) {
            return Err(invalid("only a name without `*` can be given an address"));
        }
        Ok(Self { pattern, port, address })
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
        // A lookup of a name has no port yet.
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
    /// Whether names are sent to the user's proxy unresolved.
    proxy_resolves: bool,
}

impl Policy {
    /// The policy of `--allow-host` (without any: every public host) and `--allow-private`.
    ///
    /// # Errors
    /// Fails on an invalid host.
    pub fn new(allow_hosts: &[String], allow_private: bool) -> Result<Self, InvalidRule> {
        let rules = allow_hosts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(Self { rules, allow_private, proxy_resolves: false })
    }

    /// Sets `--proxy-resolves`: names are sent to the user's proxy unresolved, and the proxy
    /// decides which addresses they lead to.
    #[must_use]
    pub fn with_proxy_resolves(self, proxy_resolves: bool) -> Self {
        Self { proxy_resolves, ..self }
    }

    /// Whether a name is sent to the proxy unresolved. Names of the host itself never are: for a
    /// proxy they mean its own machine.
    pub(crate) fn leaves_to_proxy(&self, host: &Host) -> bool {
        let Host::Name(name) = host else { return false };
        self.proxy_resolves && local_name(name) != Some(LocalName::Localhost)
    }

    /// Checks a host before it is resolved.
    ///
    /// # Errors
    /// Fails if the list does not contain it, or if it is a name of private networks that neither
    /// the list nor `--allow-private` allows.
    pub fn check_host(&self, host: &Host, port: Option<u16>) -> Result<(), Refusal> {
        let listed = self.rules.iter().any(|rule| rule.matches(host, port));
        if !self.rules.is_empty() && !listed {
            let target = match port {
                Some(port) => format!("{host}:{port}"),
                None => host.to_string(),
            };
            let message = format!("{target} is not among the hosts given by --allow-host");
            return Err(Refusal::policy(message));
        }
        let Host::Name(name) = host else { return Ok(()) };
        match local_name(name) {
            Some(local) if !listed && !self.allow_private => {
                let remedy = match local {
                    LocalName::Localhost => format!("--allow-host {name}=ADDRESS allows it"),
                    _ => format!("--allow-private or --allow-host {name}=ADDRESS allows it"),
                };
                Err(Refusal::policy(format!("{name} is {local}; {remedy}")))
            }
            _ => Ok(()),
        }
    }

    /// The addresses that the user's list assigns to a name, instead of the resolver's.
    pub(crate) fn given_addresses(&self, host: &Host, port: Option<u16>) -> Vec<IpAddr> {
        let matching = self.rules.iter().filter(|rule| rule.matches(host, port));
        matching.filter_map(|rule| rule.address).collect()
    }

    /// Checks whether an address may be connected to for this host.
    ///
    /// # Errors
    /// Fails if it may not; the message names the kind of address and the option that would allow
    /// it.
    pub fn check_address(
        &self,
        host: &Host,
        port: Option<u16>,
        address: IpAddr,
        network: &HostNetwork,
    ) -> Result<(), Refusal> {
        let class = network.reach(address);
        let allowed = match class {
            Reach::Public => true,
            Reach::Private => self.allow_private || self.spells_out(host, port, address),
            Reach::LinkLocal | Reach::Metadata | Reach::OwnHost | Reach::Loopback => {
                self.spells_out(host, port, address)
            }
            Reach::Unusable => false,
        };
        if allowed { Ok(()) } else { Err(refuse_address(host, address, class)) }
    }

    /// Whether the user's list contains this address for this host.
    pub(crate) fn spells_out(&self, host: &Host, port: Option<u16>, address: IpAddr) -> bool {
        self.rules.iter().filter(|rule| rule.matches(host, port)).any(|rule| match host {
            Host::Address(_) => true,
            Host::Name(_) => rule.address == Some(address),
        })
    }
}

/// The refusal of an address, with the option that would allow it.
pub(crate) fn refuse_address(host: &Host, address: IpAddr, class: Reach) -> Refusal {
    let what = match host {
        Host::Name(name) => format!("{name} resolves to {address}, which is "),
        Host::Address(_) => format!("{address} is "),
    };
    let rule = match host {
        Host::Name(name) => format!("--allow-host {name}={address}"),
        Host::Address(_) => format!("--allow-host {address}"),
    };
    let remedy = match class {
        Reach::Private => format!("; {rule} or --allow-private allows it"),
        Reach::LinkLocal | Reach::Metadata | Reach::OwnHost | Reach::Loopback => {
            format!("; {rule} allows it")
        }
        Reach::Public | Reach::Unusable => String::new(),
    };
    Refusal::policy(format!("{what}{}{remedy}", class.describe()))
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
        let network = HostNetwork::new(
            vec!["198.51.100.7".parse().unwrap()],
            vec!["198.51.100.0/24".parse().unwrap()],
        );
        policy.check_host(&host, Some(port)).is_ok()
            && policy.check_address(&host, Some(port), address, &network).is_ok()
    }

    /// One address of each class that a name alone does not allow.
    const PROTECTED: [&str; 8] = [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "::1",
        "fd00::1",
        "198.51.100.7",
        "198.51.100.8",
    ];

    #[test]
    fn the_default_is_everything_public() {
        let policy = Policy::default();
        assert!(verdict(&policy, "a.example", 443, "203.0.113.9"));
        assert!(verdict(&policy, "8.8.8.8", 53, "8.8.8.8"));
        for address in PROTECTED.into_iter().chain(["0.0.0.0"]) {
            assert!(!verdict(&policy, "a.example", 443, address), "{address}");
            assert!(!verdict(&policy, address, 443, address), "{address}");
        }
        for name in ["intranet", "localhost", "metadata.google.internal", "nas.local"] {
            assert!(!verdict(&policy, name, 443, "203.0.113.9"), "{name}");
        }
    }

    #[test]
    fn a_list_narrows_and_a_name_lends_nothing_to_its_dns() {
        let policy = policy(&["deb.example", "*.cdn.example:443", "intranet"], false);
        assert!(verdict(&policy, "deb.example", 80, "203.0.113.9"));
        assert!(verdict(&policy, "intranet", 80, "203.0.113.9"));
        for address in PROTECTED {
            assert!(!verdict(&policy, "deb.example", 80, address), "{address}");
            assert!(!verdict(&policy, "a.cdn.example", 443, address), "{address}");
        }
        assert!(verdict(&policy, "a.b.cdn.example", 443, "203.0.113.9"));
        assert!(!verdict(&policy, "a.cdn.example", 80, "203.0.113.9"));
        assert!(!verdict(&policy, "cdn.example", 443, "203.0.113.9"));
        assert!(!verdict(&policy, "evilcdn.example", 443, "203.0.113.9"));
        assert!(!verdict(&policy, "other.example", 443, "203.0.113.9"));
    }

    #[test]
    fn an_address_in_the_users_words_is_open_whatever_it_is() {
        for address in PROTECTED {
            let named = format!("nas.example:80={address}");
            let policy = policy(&[&named, "other.example"], false);
            assert!(verdict(&policy, "nas.example", 80, address), "{address}");
            assert!(!verdict(&policy, "nas.example", 81, address), "{address}");
            assert!(!verdict(&policy, "other.example", 80, address), "{address}");
            assert!(!verdict(&policy, address, 80, address), "{address}");
            let host = "nas.example".parse().unwrap();
            let given: IpAddr = address.parse().unwrap();
            assert_eq!(policy.given_addresses(&host, Some(80)), [given]);
        }
        let policy = policy(&["169.254.169.254:80", "[::1]:80", "0.0.0.0"], false);
        assert!(verdict(&policy, "169.254.169.254", 80, "169.254.169.254"));
        assert!(verdict(&policy, "::1", 80, "::1"));
        assert!(!verdict(&policy, "169.254.169.254", 81, "169.254.169.254"));
        assert!(!verdict(&policy, "0.0.0.0", 80, "0.0.0.0"));
    }

    #[test]
    fn private_networks_on_request_and_nothing_more() {
        let policy = policy(&[], true);
        for private in ["192.168.1.1", "fd00::1", "198.51.100.8"] {
            assert!(verdict(&policy, "nas", 80, private), "{private}");
            assert!(verdict(&policy, private, 80, private), "{private}");
        }
        for local in ["127.0.0.1", "169.254.169.254", "168.63.129.16", "198.51.100.7"] {
            assert!(!verdict(&policy, "a.example", 80, local), "{local}");
            assert!(!verdict(&policy, local, 80, local), "{local}");
        }
    }

    #[test]
    fn names_of_the_host_are_never_left_to_a_proxy() {
        let policy = policy(&["localhost", "a.example"], false).with_proxy_resolves(true);
        assert!(policy.leaves_to_proxy(&"a.example".parse().unwrap()));
        assert!(!policy.leaves_to_proxy(&"localhost".parse().unwrap()));
        assert!(!policy.leaves_to_proxy(&"203.0.113.1".parse().unwrap()));
        assert!(!Policy::default().leaves_to_proxy(&"a.example".parse().unwrap()));
    }

    #[test]
    fn rules_are_read_strictly() {
        for good in ["a", "a:1", "*.a.b", "1.2.3.4:80", "::1", "[::1]:80", "2001:db8::1"] {
            assert!(good.parse::<Rule>().is_ok(), "{good}");
        }
        for good in ["a=1.2.3.4", "a:1=::1", "a=[::1]"] {
            assert!(good.parse::<Rule>().is_ok(), "{good}");
        }
        for bad in ["", "*", "*.", "*x.org", "a:", "a:0", "a:65536", "*.1.2.3.4", "a.*.b"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
        for bad in ["[::1]:x", "http://a", "a b", "a=", "a=b", "=1.2.3.4", "*.a=1.2.3.4"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
        for bad in ["1.2.3.4=1.2.3.4", "a=1.2.3.4:80", "a=1.2.3.4=::1"] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals_say_what_would_allow_it() {
        let message = |host: &str, address: &str| {
            let (host, address) = (host.parse().unwrap(), address.parse().unwrap());
            let network = HostNetwork::default();
            let checked = Policy::default().check_address(&host, Some(80), address, &network);
            checked.unwrap_err().message
        };
        assert_eq!(
            message("nas.example", "192.168.1.1"),
            "nas.example resolves to 192.168.1.1, which is a private address; \
             --allow-host nas.example=192.168.1.1 or --allow-private allows it"
        );
        assert_eq!(
            message("127.0.0.1", "127.0.0.1"),
            "127.0.0.1 is a loopback address; --allow-host 127.0.0.1 allows it"
        );
        let host: Host = "nas.example".parse().unwrap();
        let refused = policy(&["a"], false).check_host(&host, Some(80)).unwrap_err();
        assert_eq!(refused.message, "nas.example:80 is not among the hosts given by --allow-host");
        let refused = Policy::default().check_host(&"nas.local".parse().unwrap(), None);
        assert_eq!(
            refused.unwrap_err().message,
            "nas.local is a name below `local`, which is for private networks; --allow-private or \
             --allow-host nas.local=ADDRESS allows it"
        );
    }
}
