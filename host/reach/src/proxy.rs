//! The proxy in the environment, and the hosts that bypass it.
//!
//! | variable | for |
//! |---|---|
//! | `https_proxy` | URLs with `https`, and the guest's connections |
//! | `http_proxy` | URLs with `http` |
//! | `all_proxy` | where the one above is not set |
//! | `no_proxy` | hosts without a proxy: names, domains, addresses, prefixes, `*` |
//!
//! Each variable may also be in upper case; an empty one counts as unset. If only the variable of
//! the other scheme is set, it is used: a network with a proxy seldom has another way out. An
//! unusable value is an error and never means "no proxy", because the proxy may be there to filter.

use std::{ffi::OsString, fmt, net::IpAddr};

use ipnet::IpNet;

use crate::name::Host;

/// The protocol of a proxy connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyScheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// The scheme of the URLs for which a proxy is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// A proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The protocol of its connections.
    pub scheme: ProxyScheme,
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port; by default that of the scheme.
    pub port: u16,
    /// User and password, percent-decoded.
    pub credentials: Option<(String, String)>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the credentials, since this text is logged.
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

impl Proxy {
    /// Parses `[http[s]://][USER[:PASSWORD]@]HOST[:PORT][/]`.
    ///
    /// # Errors
    /// Fails with a reason that does not quote the text, which may contain a password.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = match text.split_once("://") {
            None => (ProxyScheme::Http, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
                (ProxyScheme::Http, rest)
            }
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => {
                (ProxyScheme::Https, rest)
            }
            Some(_) => return Err("only http and https proxies are supported"),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(decode_credentials(user)?), address),
            None => (None, authority),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, port.ok_or("its port is not a number from 1 to 65535")?)
            }
            _ => match scheme {
                ProxyScheme::Http => (address, 80),
                ProxyScheme::Https => (address, 443),
            },
        };
        let host: Host = host.parse().map_err(|_| "it does not name a host")?;
        Ok(Self { scheme, host: host.to_string(), port, credentials })
    }
}

fn decode_credentials(text: &str) -> Result<(String, String), &'static str> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let decode = |part| percent_decode(part).ok_or("its user or password is not UTF-8");
    Ok((decode(user)?, decode(password)?))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if *byte == b'%' => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// A setting names an unusable proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the proxy given by `{setting}` cannot be used: {reason}")]
pub struct InvalidProxy {
    /// The environment variable, or the setting of another program.
    pub setting: String,
    /// The reason, without the text, which may contain a password.
    pub reason: &'static str,
}

/// The proxies of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: NoProxy,
}

impl Proxies {
    /// Reads the environment with the lookup function `variable`. If `no_proxy` is `*`, the other
    /// variables are ignored.
    ///
    /// # Errors
    /// Fails if a variable names an unusable proxy.
    pub fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, InvalidProxy> {
        let read = |name: &str| -> Result<Option<(String, String)>, InvalidProxy> {
            let upper = name.to_ascii_uppercase();
            let found = [name.to_owned(), upper].into_iter().find_map(|name| {
                let value = variable(&name).filter(|value| !value.is_empty())?;
                Some((name, value))
            });
            let Some((setting, value)) = found else { return Ok(None) };
            match value.into_string() {
                Ok(value) => Ok(Some((setting, value))),
                Err(_) => Err(InvalidProxy { setting, reason: "it is not UTF-8" }),
            }
        };
        let direct = read("no_proxy")?.map(|(_, list)| NoProxy::parse(&list)).unwrap_or_default();
        if direct.everything {
            return Ok(Self { direct, ..Self::default() });
        }
        let parse = |name: &str| -> Result<Option<Proxy>, InvalidProxy> {
            let Some((setting, value)) = read(name)? else { return Ok(None) };
            Proxy::parse(&value).map(Some).map_err(|reason| InvalidProxy { setting, reason })
        };
        let (http, https, all) = (parse("http_proxy")?, parse("https_proxy")?, parse("all_proxy")?);
        let first = |one: &Option<Proxy>, other: &Option<Proxy>| {
            one.clone().or_else(|| all.clone()).or_else(|| other.clone())
        };
        Ok(Self { http: first(&http, &https), https: first(&https, &http), direct })
    }

    /// Whether the environment sets a proxy, or sets that there is none.
    #[must_use]
    pub fn decides(&self) -> bool {
        self.http.is_some() || self.https.is_some() || self.direct.everything
    }

    /// Uses other proxies if the environment sets none.
    #[must_use]
    pub fn or(self, http: Option<Proxy>, https: Option<Proxy>) -> Self {
        if self.decides() { self } else { Self { http, https, ..self } }
    }

    /// The proxy for URLs of a scheme, whatever their host.
    #[must_use]
    pub fn of(&self, scheme: Scheme) -> Option<&Proxy> {
        match scheme {
            Scheme::Http => self.http.as_ref(),
            Scheme::Https => self.https.as_ref(),
        }
    }

    /// The hosts that bypass the proxy.
    #[must_use]
    pub fn direct(&self) -> &NoProxy {
        &self.direct
    }
}

/// The hosts of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoProxy {
    everything: bool,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    /// This name, and all names below it.
    Domain(String),
    Addresses(IpNet),
}

impl NoProxy {
    /// Parses a list separated by commas or spaces. An entry that is neither a name nor an address
    /// matches no host.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let mut read = Self::default();
        for entry in list.split([',', ' ', '\t']).map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                read.everything = true;
            } else {
                read.entries.extend(Entry::parse(entry));
            }
        }
        read
    }

    /// Whether a host bypasses the proxy. `port` is `None` for a name lookup: entries with a port
    /// then match by host alone.
    #[must_use]
    pub fn matches(&self, host: &Host, port: Option<u16>) -> bool {
        self.everything || self.entries.iter().any(|entry| entry.matches(host, port))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        if let Some(addresses) = addresses(text) {
            return Some(Self { hosts: Hosts::Addresses(addresses), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text, None),
        };
        let hosts = match addresses(host) {
            Some(addresses) => Hosts::Addresses(addresses),
            None => {
                let name = host.trim_start_matches("*.").trim_start_matches('.');
                match name.parse().ok()? {
                    Host::Name(name) => Hosts::Domain(name),
                    Host::Address(address) => Hosts::Addresses(address.into()),
                }
            }
        };
        Some(Self { hosts, port })
    }

    fn matches(&self, host: &Host, port: Option<u16>) -> bool {
        let host_matches = match (&self.hosts, host) {
            (Hosts::Domain(domain), Host::Name(name)) => name
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
            (Hosts::Addresses(net), Host::Address(address)) => net.contains(address),
            _ => false,
        };
        host_matches && (self.port.is_none() || port.is_none() || self.port == port)
    }
}

/// An address, with or without brackets, or a prefix.
fn addresses(text: &str) -> Option<IpNet> {
    if let Ok(net) = text.parse() {
        return Some(net);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().ok().map(IpNet::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Proxies, InvalidProxy> {
        Proxies::from_environment(|name| {
            pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn a_proxy_is_read_with_its_parts() {
        let proxy = Proxy::parse("http://u%40x:p%3a@Proxy.example:8080/").unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 8080));
        assert_eq!(proxy.credentials, Some(("u@x".to_owned(), "p:".to_owned())));
        assert_eq!(format!("{proxy:?}"), "Proxy(proxy.example:8080)");
        let port = |text: &str| Proxy::parse(text).map(|proxy| (proxy.host, proxy.port));
        assert_eq!(port("proxy"), Ok(("proxy".to_owned(), 80)));
        assert_eq!(port("https://proxy"), Ok(("proxy".to_owned(), 443)));
        assert_eq!(port("http://[::1]:1"), Ok(("::1".to_owned(), 1)));
        assert_eq!(port("http://[::1]"), Ok(("::1".to_owned(), 80)));
        for bad in ["socks5://a:1", "http://", "http://a:b", "http://a:0", "http://a b", "x@y@"] {
            assert!(Proxy::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_scheme_has_its_variable_and_the_others_as_a_substitute() {
        let of = |pairs: &[(&str, &str)]| {
            let proxies = from(pairs).unwrap();
            let host = |scheme| proxies.of(scheme).map(|proxy| proxy.host.clone());
            [host(Scheme::Http), host(Scheme::Https)].map(Option::unwrap_or_default)
        };
        assert_eq!(of(&[]), ["", ""]);
        assert_eq!(of(&[("http_proxy", ""), ("HTTP_PROXY", "up")]), ["up", "up"]);
        assert_eq!(
            of(&[("http_proxy", "h"), ("https_proxy", "s"), ("all_proxy", "a")]),
            ["h", "s"]
        );
        assert_eq!(of(&[("http_proxy", "h"), ("all_proxy", "a")]), ["h", "a"]);
        assert_eq!(of(&[("HTTPS_PROXY", "s")]), ["s", "s"]);
        assert_eq!(of(&[("http_proxy", "h"), ("no_proxy", "a,*")]), ["", ""]);
        let apt = || Proxy::parse("apt").ok();
        assert_eq!(from(&[]).unwrap().or(apt(), None).of(Scheme::Http), apt().as_ref());
        let own = from(&[("https_proxy", "s")]).unwrap().or(apt(), apt());
        assert_eq!(own.of(Scheme::Http).unwrap().host, "s");
    }

    #[test]
    fn a_variable_that_cannot_be_used_is_an_error_and_not_no_proxy() {
        for name in ["http_proxy", "HTTPS_PROXY", "all_proxy"] {
            let error = from(&[(name, "socks5://me:secret@a:1")]).unwrap_err();
            assert_eq!(error.setting, name);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let bytes = |name: &str| (name == "http_proxy").then(|| OsString::from_vec(vec![0xff]));
        assert!(Proxies::from_environment(bytes).is_err());
        // The user disables all proxies.
        assert!(from(&[("http_proxy", "socks5://a:1"), ("NO_PROXY", "*")]).is_ok());
    }

    #[test]
    fn hosts_that_are_reached_without_it() {
        let list = "a.example, .b.example 10.0.0.1,*.c,192.168.0.0/16,[2001:db8::1]:443,\
                    2001:db8:1::/48,d.example:8080,?";
        let direct = NoProxy::parse(list);
        let matches = |host: &str, port| direct.matches(&host.parse().unwrap(), port);
        for host in ["a.example", "x.a.example", "b.example", "x.b.example", "10.0.0.1", "y.c"] {
            assert!(matches(host, Some(443)), "{host}");
        }
        for host in ["192.168.7.7", "2001:db8:1:2::3", "2001:db8::1", "A.Example."] {
            assert!(matches(host, Some(443)), "{host}");
        }
        for host in ["xa.example", "example", "10.0.0.11", "110.0.0.1", "a.example.evil.example"] {
            assert!(!matches(host, Some(443)), "{host}");
        }
        assert!(matches("d.example", Some(8080)) && matches("d.example", None));
        assert!(!matches("d.example", Some(443)) && !matches("2001:db8::1", Some(80)));
        assert!(NoProxy::parse("*").matches(&"any.example".parse().unwrap(), None));
    }
}
