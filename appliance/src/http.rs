//! The HTTP client: host trust store, proxies of the environment or of apt,
//! and a stall limit on every read.

use std::{fs, io::Read, path::Path, sync::Arc, time::Duration};

use ureq::{
    Agent, Proxy,
    http::Response,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use crate::{apt_conf::AptConf, fetch::FetchError};

/// Name resolution and connecting; a mirror that needs longer is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence after which a connection counts as dead. The download is resumed on
/// a new one, so this may be short.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The answer's head; caching proxies fetch the whole file before they answer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);
/// The largest text taken into memory: an InRelease file is about 150 KB.
const TEXT_MAX_BYTES: u64 = 8 << 20;

/// A client; clones share its connections.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    plain: Agent,
    secure: Agent,
    /// For a mirror on this machine, which no proxy can reach.
    local: Agent,
}

impl Client {
    /// A client that trusts what the host trusts and, if given, the
    /// certificates of one more PEM file.
    ///
    /// # Errors
    /// When the PEM file cannot be read or holds no certificate.
    pub(crate) fn new(ca_file: Option<&Path>, apt: &AptConf) -> Result<Self, FetchError> {
        let roots = match ca_file {
            None => RootCerts::PlatformVerifier,
            Some(path) => RootCerts::Specific(Arc::new(host_and(path)?)),
        };
        let tls = TlsConfig::builder().root_certs(roots).build();
        let proxy = |scheme: &str| {
            let from_apt = || apt.proxy(scheme).and_then(|proxy| Proxy::new(proxy).ok());
            Proxy::try_from_env().or_else(from_apt)
        };
        let agent = |proxy: Option<Proxy>| {
            let config = Agent::config_builder()
                .tls_config(tls.clone())
                .proxy(proxy)
                .http_status_as_error(false)
                .timeout_resolve(Some(CONNECT_TIMEOUT))
                .timeout_connect(Some(CONNECT_TIMEOUT))
                .timeout_recv_response(Some(RESPONSE_TIMEOUT))
                .timeout_per_read(Some(STALL_TIMEOUT))
                .user_agent(concat!("vbuild/", env!("CARGO_PKG_VERSION")))
                // A compressed transfer would make ranges meaningless.
                .accept_encoding("identity")
                .build();
            Agent::new_with_config(config)
        };
        Ok(Self { plain: agent(proxy("http")), secure: agent(proxy("https")), local: agent(None) })
    }

    /// Sends a GET, from a byte offset if that is not 0.
    ///
    /// # Errors
    /// When no answer comes; an answer of any status is one.
    pub(crate) fn get(&self, url: &str, offset: u64) -> Result<Response<ureq::Body>, FetchError> {
        let agent = if is_local(url) {
            &self.local
        } else if url.starts_with("https:") {
            &self.secure
        } else {
            &self.plain
        };
        let mut request = agent.get(url);
        if offset > 0 {
            request = request.header("Range", format!("bytes={offset}-"));
        }
        request.call().map_err(|source| FetchError::unreachable(url, source))
    }

    /// Fetches a small text.
    ///
    /// # Errors
    /// When the mirror does not answer, answers with an error, or the text is
    /// absurdly long or no UTF-8.
    pub(crate) fn text(&self, url: &str) -> Result<String, FetchError> {
        let mut response = self.get(url, 0)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(FetchError::Status { url: url.to_owned(), status });
        }
        let mut text = String::new();
        response
            .body_mut()
            .as_reader()
            .take(TEXT_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| FetchError::Broken { url: url.to_owned(), why: error.to_string() })?;
        Ok(text)
    }
}

/// Whether a URL is one of this machine.
fn is_local(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|host| {
        rest.strip_prefix(host).is_some_and(|rest| rest.starts_with([':', '/']) || rest.is_empty())
    })
}

/// The host's certificates and those of a file.
fn host_and(path: &Path) -> Result<Vec<Certificate<'static>>, FetchError> {
    let bad = |why: String| FetchError::CaFile { path: path.to_owned(), why };
    let text = fs::read(path).map_err(|error| bad(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(bad(error.to_string())),
        }
    }
    if certificates.is_empty() {
        return Err(bad("it holds no certificate".to_owned()));
    }
    // Certificates of the host that cannot be read are left out: the file that
    // was given may be all that is needed.
    let host = rustls_native_certs::load_native_certs();
    certificates.extend(host.certs.iter().map(|der| Certificate::from_der(der).to_owned()));
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_of_this_machine() {
        for url in ["http://localhost:80/x", "https://127.0.0.1/", "http://[::1]:1"] {
            assert!(is_local(url), "{url}");
        }
        for url in ["http://localhost.test/", "http://127.0.0.10/", "http://m.test/localhost"] {
            assert!(!is_local(url), "{url}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Client::new(Some(file.path()), &AptConf::default()).unwrap_err();
        assert!(matches!(error, FetchError::CaFile { .. }), "{error}");
    }
}
