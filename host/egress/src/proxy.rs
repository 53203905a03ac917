//! The user's own proxy: where one is set, it is the only way out, so
//! connections are made through it with CONNECT. vbuild then checks names; the
//! addresses behind them only the proxy knows.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::protocol::{Refusal, RefusalKind};

/// The longest head of a proxy's answer.
const HEAD_MAX_BYTES: usize = 16 * 1024;

/// A proxy of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port`.
    authority: String,
    /// Names that are reached without it.
    exceptions: Vec<String>,
}

impl Proxy {
    /// The proxy of variables in curl's manner: `https_proxy`, else
    /// `all_proxy`, else `http_proxy`, each in lower case first; exceptions in
    /// `no_proxy`. A proxy that asks for a password is not supported.
    #[must_use]
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let either = |name: &str| {
            variable(name)
                .or_else(|| variable(&name.to_ascii_uppercase()))
                .filter(|value| !value.is_empty())
        };
        let url =
            ["https_proxy", "all_proxy", "http_proxy"].into_iter().find_map(|name| either(name))?;
        let rest = url.strip_prefix("http://").unwrap_or(&url);
        let authority = rest.split('/').next().unwrap_or("");
        if authority.is_empty() || rest.contains("://") || authority.contains('@') {
            tracing::warn!("the proxy of the environment cannot be used: only http://HOST:PORT");
            return None;
        }
        let with_port =
            authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if with_port { authority.to_owned() } else { format!("{authority}:8080") };
        let exceptions = either("no_proxy")
            .unwrap_or_default()
            .split([',', ' '])
            .map(|name| name.trim().trim_start_matches('.').to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .collect();
        Some(Self { authority, exceptions })
    }

    /// Whether a host is reached through the proxy.
    #[must_use]
    pub fn serves(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        !self
            .exceptions
            .iter()
            .any(|name| name == "*" || host == *name || host.ends_with(&format!(".{name}")))
    }

    /// Connects to a host through the proxy.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Refusal> {
        let unreachable =
            |what: String| Refusal::new(RefusalKind::Unreachable, format!("the proxy {what}"));
        let mut stream = TcpStream::connect(&self.authority)
            .await
            .map_err(|e| unreachable(format!("{} cannot be reached: {e}", self.authority)))?;
        let target =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        let io = |e: std::io::Error| unreachable(format!("{} failed: {e}", self.authority));
        stream.write_all(head.as_bytes()).await.map_err(io)?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() > HEAD_MAX_BYTES {
                return Err(unreachable(format!("{} answers without end", self.authority)));
            }
            answer.push(stream.read_u8().await.map_err(io)?);
        }
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or("").to_owned();
        if line.split(' ').nth(1) == Some("200") {
            Ok(stream)
        } else {
            Err(unreachable(format!("{} refused {target}: {line}", self.authority)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_environment() {
        let proxy = Proxy::from_environment(|name| match name {
            "https_proxy" => Some("http://proxy.test:3128/".into()),
            "NO_PROXY" => Some("localhost,.internal.test".into()),
            _ => None,
        })
        .unwrap();
        assert_eq!(proxy.authority, "proxy.test:3128");
        assert!(proxy.serves("deb.example.org"));
        assert!(!proxy.serves("a.internal.test") && !proxy.serves("localhost"));
        assert_eq!(Proxy::from_environment(|_| None), None);
        let odd = Proxy::from_environment(|_| Some("socks5://x:1".into()));
        assert_eq!(odd, None);
    }
}
