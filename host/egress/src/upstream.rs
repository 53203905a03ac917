//! Connects through the user's proxy, if the host reaches the internet only through one.
//!
//! All connections use `CONNECT`, also those to port 80, which the proxy must permit. The proxy is
//! asked for addresses that were resolved and checked here, so that it connects to what was
//! checked; only with `--proxy-resolves` is it asked for names.

use std::{io, time::Duration};

use reach::{Host, InvalidProxy, NoProxy, Proxies, Proxy, ProxyScheme, Scheme};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use wire::egress::{Refusal, RefusalKind};

/// Maximum size of the proxy's response head: a status line and some headers.
const ANSWER_MAX_BYTES: usize = 16 << 10;

/// The proxy for all connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    proxy: Proxy,
    direct: NoProxy,
}

impl Upstream {
    /// The proxy that the environment sets for `https` URLs, since all connections of a guest use
    /// `CONNECT`.
    ///
    /// # Errors
    /// Fails if a variable names an unusable proxy: ignoring it would bypass the proxy.
    pub fn from_environment(
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<Option<Self>, InvalidProxy> {
        let proxies = Proxies::from_environment(variable)?;
        let Some(proxy) = proxies.of(Scheme::Https).cloned() else { return Ok(None) };
        if proxy.scheme != ProxyScheme::Http {
            return Err(InvalidProxy {
                setting: "https_proxy".to_owned(),
                reason: "connections of the guest need a proxy that is spoken to by plain http",
            });
        }
        Ok(Some(Self { proxy, direct: proxies.direct().clone() }))
    }

    /// Whether to connect to this host without the proxy.
    #[must_use]
    pub fn bypasses(&self, host: &Host, port: Option<u16>) -> bool {
        self.direct.matches(host, port)
    }

    /// The proxy's host and port, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("{}:{}", self.proxy.host, self.proxy.port)
    }

    /// Connects to the first of `targets` that the proxy reaches within `limit`. `targets` must not
    /// be empty.
    pub(crate) async fn connect(
        &self,
        targets: &[Host],
        port: u16,
        limit: Duration,
    ) -> Result<TcpStream, Refusal> {
        let attempts = async {
            let mut last = Refusal::new(RefusalKind::Unreachable, "there is no address to try");
            for target in targets {
                match self.tunnel(target, port).await {
                    // The proxy may lack one address family.
                    Err(refusal) if is_unreachable(refusal.kind) => last = refusal,
                    done => return done,
                }
            }
            Err(last)
        };
        tokio::time::timeout(limit, attempts).await.unwrap_or_else(|_| {
            let message = format!("the proxy did not answer within {} s", limit.as_secs());
            Err(Refusal::new(RefusalKind::Timeout, message))
        })
    }

    async fn tunnel(&self, host: &Host, port: u16) -> Result<TcpStream, Refusal> {
        let failed = |e: io::Error| {
            let message = format!("the proxy {} failed: {e}", self.describe());
            Refusal::new(RefusalKind::Unreachable, message)
        };
        let mut stream = TcpStream::connect((self.proxy.host.as_str(), self.proxy.port))
            .await
            .map_err(failed)?;
        let _ = stream.set_nodelay(true);
        let target = match host {
            Host::Address(address) if address.is_ipv6() => format!("[{address}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some((user, password)) = &self.proxy.credentials {
            let encoded = base64(format!("{user}:{password}").as_bytes());
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

fn is_unreachable(kind: RefusalKind) -> bool {
    matches!(kind, RefusalKind::Unreachable | RefusalKind::Timeout)
}

/// Reads the head of the proxy's response, byte by byte so that no data of the tunnel is consumed;
/// returns the status.
async fn read_status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= ANSWER_MAX_BYTES {
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

    #[test]
    fn only_a_plain_http_proxy_can_carry_connections() {
        let from = |value: &'static str| {
            Upstream::from_environment(|name| (name == "https_proxy").then(|| value.into()))
        };
        assert_eq!(from("").unwrap(), None);
        assert_eq!(from("http://me:secret@p:1").unwrap().unwrap().describe(), "p:1");
        let error = from("https://me:secret@p:1").unwrap_err().to_string();
        assert!(error.contains("plain http") && !error.contains("secret"), "{error}");
        assert!(from("socks5://p:1").is_err());
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
