//! The user's own proxy, when the host reaches the internet only through one.
//!
//! All connections go through it by `CONNECT`, also those to port 80, which the
//! proxy has to permit. The proxy resolves the names, so with one only names
//! and literal addresses are checked, not what names resolve to; hosts in
//! `no_proxy` are connected to directly and checked in full.

use std::{fmt, io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    policy::Host,
    protocol::{Refusal, RefusalKind},
};

/// Bytes of the proxy's answer before the connection: a status line and some
/// headers.
const MAX_ANSWER_BYTES: usize = 16 << 10;

/// A proxy that is asked for every connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    host: String,
    port: u16,
    /// `user:password`, if the URL has it.
    credentials: Option<String>,
    direct: Vec<String>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the credentials: this ends up in logs.
        write!(f, "Upstream({}:{})", self.host, self.port)
    }
}

/// A proxy URL that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the proxy given by `{variable}` cannot be used: {reason}")]
pub struct InvalidProxy {
    /// The environment variable.
    pub variable: String,
    /// What is wrong; never the URL, which may hold a password.
    pub reason: &'static str,
}

impl Upstream {
    /// The proxy that the environment names: `https_proxy`, else `http_proxy`,
    /// else `all_proxy`, in lower or upper case, with `no_proxy`. An empty
    /// variable is none.
    ///
    /// # Errors
    /// When the URL is malformed, or its scheme is not `http`.
    pub fn from_environment(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, InvalidProxy> {
        let read = |name: &str| {
            let found = variable(name).map(|value| (name.to_owned(), value));
            let found = found.or_else(|| {
                let upper = name.to_ascii_uppercase();
                variable(&upper).map(|value| (upper, value))
            });
            found.filter(|(_, value)| !value.is_empty())
        };
        let names = ["https_proxy", "http_proxy", "all_proxy"];
        let Some((variable, url)) = names.into_iter().find_map(read) else { return Ok(None) };
        let mut upstream = Self::parse(&url).map_err(|reason| InvalidProxy { variable, reason })?;
        let direct = read("no_proxy").map(|(_, list)| list).unwrap_or_default();
        let entries = direct.split(',').map(|e| e.trim().to_ascii_lowercase());
        upstream.direct = entries.filter(|e| !e.is_empty()).collect();
        Ok(Some(upstream))
    }

    /// Reads `http://[USER:PASSWORD@]HOST[:PORT][/]`, the scheme being optional.
    fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = match url.split_once("://") {
            None => url,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err("only proxies spoken to by plain http are supported"),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((user, address)) => (Some(percent_decode(user)), address),
            None => (None, authority),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| "its port is no number")?)
            }
            // What every proxy of this kind has listened on by default.
            _ => (address, 3128),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("it names no host");
        }
        Ok(Self { host: host.to_owned(), port, credentials, direct: Vec::new() })
    }

    /// Whether this host is to be connected to without the proxy: it, or a
    /// domain it is in, is in `no_proxy`, or that is `*`.
    #[must_use]
    pub fn bypasses(&self, host: &Host) -> bool {
        let name = host.to_string();
        self.direct.iter().any(|entry| {
            let entry = entry.trim_start_matches("*.").trim_start_matches('.');
            let below = matches!(host, Host::Name(_))
                && name.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'));
            entry == "*" || name == entry || below
        })
    }

    /// Opens a connection to `host:port` through the proxy.
    pub(crate) async fn connect(
        &self,
        host: &Host,
        port: u16,
        limit: Duration,
    ) -> Result<TcpStream, Refusal> {
        let attempt = self.tunnel(host, port);
        tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
            let message = format!("the proxy did not answer within {} s", limit.as_secs());
            Err(Refusal::new(RefusalKind::Timeout, message))
        })
    }

    async fn tunnel(&self, host: &Host, port: u16) -> Result<TcpStream, Refusal> {
        let failed = |e: io::Error| {
            let message = format!("the proxy {}:{} failed: {e}", self.host, self.port);
            Refusal::new(RefusalKind::Unreachable, message)
        };
        let mut stream =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        let _ = stream.set_nodelay(true);
        let target = match host {
            Host::Address(address) if address.is_ipv6() => format!("[{address}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = &self.credentials {
            let encoded = base64(credentials.as_bytes());
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&encoded);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(failed)?;
        match read_status(&mut stream).await.map_err(failed)? {
            200..=299 => Ok(stream),
            status => {
                let kind = match status {
                    502 | 503 => RefusalKind::Unreachable,
                    504 => RefusalKind::Timeout,
                    _ => RefusalKind::Refused,
                };
                let message = format!("the proxy answered {status} for {target}");
                Err(Refusal::new(kind, message))
            }
        }
    }
}

/// Reads the head of the proxy's answer, byte by byte so that nothing of the
/// tunnel behind it is taken; returns the status.
async fn read_status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_ANSWER_BYTES {
            return Err(io::Error::other("its answer is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let speaks_http = words.next().is_some_and(|w| w.starts_with("HTTP/1."));
    let status = words.next().and_then(|w| w.parse().ok());
    status.filter(|_| speaks_http).ok_or_else(|| io::Error::other("its answer is not HTTP"))
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let code = tail.get(..2).and_then(|c| std::str::from_utf8(c).ok());
        match code.and_then(|c| u8::from_str_radix(c, 16).ok()) {
            Some(decoded) if *byte == b'%' => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let word = u32::from_be_bytes(word);
        for place in 0..4 {
            let sextet = (word >> (18 - 6 * place)) as usize & 63;
            text.push(if place > group.len() { '=' } else { char::from(ALPHABET[sextet]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(pairs: &[(&str, &str)]) -> Result<Option<Upstream>, InvalidProxy> {
        Upstream::from_environment(|name| {
            pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn the_environment_names_the_proxy() {
        assert_eq!(from(&[]), Ok(None));
        assert_eq!(from(&[("http_proxy", "")]), Ok(None));
        let proxy =
            from(&[("HTTPS_PROXY", "http://u%40x:p@proxy.example:8080/")]).unwrap().unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 8080));
        assert_eq!(proxy.credentials.as_deref(), Some("u@x:p"));
        assert_eq!(format!("{proxy:?}"), "Upstream(proxy.example:8080)");
        let bare = from(&[("http_proxy", "proxy")]).unwrap().unwrap();
        assert_eq!((bare.host.as_str(), bare.port), ("proxy", 3128));
        let v6 = from(&[("all_proxy", "http://[::1]:1")]).unwrap().unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("::1", 1));
        for bad in ["socks5://a:1", "https://a:1", "http://", "http://a:b"] {
            assert_eq!(from(&[("http_proxy", bad)]).unwrap_err().variable, "http_proxy");
        }
    }

    #[test]
    fn hosts_that_bypass_it() {
        let proxy =
            from(&[("http_proxy", "p"), ("no_proxy", "a.example, .b.example,10.0.0.1,*.c")]);
        let proxy = proxy.unwrap().unwrap();
        for host in ["a.example", "x.a.example", "b.example", "x.b.example", "10.0.0.1", "y.c"] {
            assert!(proxy.bypasses(&host.parse().unwrap()), "{host}");
        }
        for host in ["xa.example", "example", "10.0.0.11", "110.0.0.1"] {
            assert!(!proxy.bypasses(&host.parse().unwrap()), "{host}");
        }
        let all = from(&[("http_proxy", "p"), ("no_proxy", "*")]).unwrap().unwrap();
        assert!(all.bypasses(&"any.example".parse().unwrap()));
    }

    #[test]
    fn base64_of_known_strings() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
