//! The HTTP client: the host's trust store, proxies, timeouts, and redirects.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reach::{Proxies, ProxyScheme, Scheme};
use ureq::{
    Agent, Body, ProxyProtocol,
    http::{Response, header::LOCATION},
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
    unversioned::transport::DefaultConnector,
};
use url::Url;

use crate::{
    DownloadError,
    redirect::{self, Guard, GuardedResolver, PROTECTED, REDIRECTS_MAX},
};

/// Timeout for name resolution and connecting; a slower server is considered down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle timeout of a connection. The download continues with a new one, so this may be short.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for the response head; caching proxies fetch the whole file before they respond.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);

/// The parameters of a client.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Additional trusted certificates (PEM).
    pub certificates: Option<Vec<u8>>,
    /// The proxies.
    pub proxies: Proxies,
}

impl Options {
    /// Options with the proxies of this process's environment.
    ///
    /// # Errors
    /// Fails if the environment names an unusable proxy.
    pub fn from_environment(certificates: Option<Vec<u8>>) -> Result<Self, DownloadError> {
        let proxies = Proxies::from_environment(|name| std::env::var_os(name))?;
        Ok(Self { certificates, proxies })
    }
}

/// An HTTP client; clones share its connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    tls: TlsConfig,
    proxies: Proxies,
    agents: Mutex<HashMap<(Route, Guard), Agent>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("proxies", &self.shared.proxies).finish_non_exhaustive()
    }
}

/// The route to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Route {
    Direct,
    HttpProxy,
    HttpsProxy,
}

impl Client {
    /// Creates a client.
    ///
    /// # Errors
    /// Fails if the given PEM text contains no certificate.
    pub fn new(options: &Options) -> Result<Self, DownloadError> {
        let roots = match &options.certificates {
            None => RootCerts::PlatformVerifier,
            Some(pem) => RootCerts::Specific(Arc::new(host_and(pem)?)),
        };
        let shared = Shared {
            tls: TlsConfig::builder().root_certs(roots).build(),
            proxies: options.proxies.clone(),
            agents: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sends a GET request with these headers, and follows permitted redirects.
    ///
    /// # Errors
    /// Fails if there is no response, or on a refused redirect. A response of any status is a
    /// success.
    pub(crate) fn get(
        &self,
        url: &str,
        headers: &[(&str, String)],
    ) -> Result<Response<Body>, DownloadError> {
        let bad = |why: &str| DownloadError::Url { url: url.to_owned(), why: why.to_owned() };
        let mut at = Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        if !matches!(at.scheme(), "http" | "https") {
            return Err(bad("it is neither http nor https"));
        }
        let first = redirect::host(&at).ok_or_else(|| bad("it names no host"))?;
        let mut guard = Guard::None;
        for _ in 0..=REDIRECTS_MAX {
            let refuse = |to: &Url, why| {
                let to = without_credentials(to);
                Err(DownloadError::Redirect { url: url.to_owned(), to, why })
            };
            let response = match self.get_once(&at, guard, headers) {
                Ok(response) => response,
                Err(error) if is_refusal(&error) => return refuse(&at, PROTECTED),
                Err(error) => {
                    let why = error.to_string();
                    return Err(DownloadError::Unreachable { url: url.to_owned(), why });
                }
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(location) = location else { return Ok(response) };
            match redirect::target(&at, location) {
                Ok(to) => at = to,
                Err(why) => {
                    let to = location.chars().take(300).collect();
                    return Err(DownloadError::Redirect { url: url.to_owned(), to, why });
                }
            }
            if guard == Guard::None {
                guard = Guard::Within(redirect::class(&first));
            }
            // A proxy resolves the name itself; the lookup here finds what this host knows about
            // it.
            let host = redirect::host(&at);
            let by_proxy = host.as_ref().is_some_and(|host| self.route(&at, host) != Route::Direct);
            if by_proxy && !host.is_some_and(|host| guard.permits(redirect::class(&host))) {
                return refuse(&at, PROTECTED);
            }
        }
        let why = "after more redirects than are followed";
        Err(DownloadError::Redirect { url: url.to_owned(), to: without_credentials(&at), why })
    }

    fn get_once(
        &self,
        url: &Url,
        guard: Guard,
        headers: &[(&str, String)],
    ) -> Result<Response<Body>, ureq::Error> {
        let route = redirect::host(url).map_or(Route::Direct, |host| self.route(url, &host));
        let mut request = self.agent(route, guard)?.get(url.as_str());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.call()
    }

    fn route(&self, url: &Url, host: &reach::Host) -> Route {
        let proxies = &self.shared.proxies;
        let direct = redirect::is_this_host(host)
            || proxies.direct().matches(host, url.port_or_known_default());
        let (scheme, route) = match url.scheme() {
            "https" => (Scheme::Https, Route::HttpsProxy),
            _ => (Scheme::Http, Route::HttpProxy),
        };
        if direct || proxies.of(scheme).is_none() { Route::Direct } else { route }
    }

    /// The agent for a route; each agent has its own connections.
    fn agent(&self, route: Route, guard: Guard) -> Result<Agent, ureq::Error> {
        let shared = &self.shared;
        // With a proxy, the only name resolved for a connection is the proxy's.
        let guard = if route == Route::Direct { guard } else { Guard::None };
        let mut agents = shared.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&(route, guard)) {
            return Ok(agent.clone());
        }
        let proxy = match route {
            Route::Direct => None,
            Route::HttpProxy => shared.proxies.of(Scheme::Http),
            Route::HttpsProxy => shared.proxies.of(Scheme::Https),
        };
        let config = Agent::config_builder()
            .tls_config(shared.tls.clone())
            .proxy(proxy.map(ureq_proxy).transpose()?)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .user_agent(concat!("vbuild/", env!("CARGO_PKG_VERSION")))
            // Compressed transfers would make ranges meaningless, and digests refer to the
            // uncompressed file.
            .accept_encoding("identity")
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), GuardedResolver(guard));
        agents.insert((route, guard), agent.clone());
        Ok(agent)
    }
}

fn is_refusal(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Other(why) if why.is::<redirect::Refused>())
}

/// A URL to be shown, without credentials: a server may redirect to a URL with the user's.
fn without_credentials(url: &Url) -> String {
    let mut url = url.clone();
    // Fails for URLs without an authority.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.into()
}

fn ureq_proxy(proxy: &reach::Proxy) -> Result<ureq::Proxy, ureq::Error> {
    let protocol = match proxy.scheme {
        ProxyScheme::Http => ProxyProtocol::Http,
        ProxyScheme::Https => ProxyProtocol::Https,
    };
    let host = match proxy.host.contains(':') {
        true => format!("[{}]", proxy.host),
        false => proxy.host.clone(),
    };
    let mut builder = ureq::Proxy::builder(protocol).host(&host).port(proxy.port);
    if let Some((user, password)) = &proxy.credentials {
        builder = builder.username(user).password(password);
    }
    builder.build()
}

/// The host's certificates and those of a PEM text.
fn host_and(pem: &[u8]) -> Result<Vec<Certificate<'static>>, DownloadError> {
    let bad = |why: String| DownloadError::Certificates { why };
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(bad(error.to_string())),
        }
    }
    if certificates.is_empty() {
        return Err(bad("there is no certificate among them".to_owned()));
    }
    // Unreadable host certificates are skipped: the given ones may suffice.
    let host = rustls_native_certs::load_native_certs();
    certificates.extend(host.certs.iter().map(|der| Certificate::from_der(der).to_owned()));
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_must_be_some() {
        let options = Options { certificates: Some(Vec::new()), ..Options::default() };
        let error = Client::new(&options).unwrap_err();
        assert!(matches!(error, DownloadError::Certificates { .. }), "{error}");
    }

    #[test]
    fn which_hosts_go_by_the_proxy() {
        let proxies = Proxies::from_environment(|name| match name {
            "http_proxy" => Some("http://p:1".into()),
            "no_proxy" => Some("direct.example,10.0.0.0/8".into()),
            _ => None,
        });
        let options = Options { proxies: proxies.unwrap(), ..Options::default() };
        let client = Client::new(&options).unwrap();
        let route = |text: &str| {
            let url = Url::parse(text).unwrap();
            client.route(&url, &redirect::host(&url).unwrap())
        };
        assert_eq!(route("http://localhost.evil.example/"), Route::HttpProxy);
        assert_eq!(route("https://a.example/"), Route::HttpsProxy);
        for direct in
            ["http://localhost:9/", "http://[::1]/", "http://direct.example/", "http://10.1.2.3/"]
        {
            assert_eq!(route(direct), Route::Direct, "{direct}");
        }
    }
}
