//! Checks redirects.
//!
//! The URL given by the user or a recipe may be in any network. A redirect comes from the server:
//! it must not make vbuild a client of services that the server itself cannot reach. So a redirect
//! may only stay in the network class of the first URL, or lead to the public internet.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use reach::{Host, HostNetwork, Reach, local_name};
use ureq::{
    config::Config,
    http::Uri,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};
use url::Url;

/// Maximum redirects per request; similar to browsers and curl.
pub(crate) const REDIRECTS_MAX: usize = 10;

/// The reason for refusing an address.
pub(crate) const PROTECTED: &str = "which is in a more protected network than the first address";

/// The permitted targets of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Guard {
    /// Any: the URL comes from the user or the recipe.
    None,
    /// The public internet, and networks of this class.
    Within(Reach),
}

impl Guard {
    pub(crate) fn permits(self, class: Reach) -> bool {
        let Self::Within(first) = self else { return true };
        let is_host = |class| matches!(class, Reach::Loopback | Reach::OwnHost);
        match class {
            Reach::Public => true,
            Reach::Private => first != Reach::Public,
            Reach::Loopback | Reach::OwnHost => is_host(first),
            Reach::LinkLocal | Reach::Metadata => class == first,
            Reach::Unusable => false,
        }
    }
}

/// Resolves names, and drops addresses that the guard does not permit: the check applies to the
/// addresses of the actual connection, not to an earlier lookup.
#[derive(Debug)]
pub(crate) struct GuardedResolver(pub(crate) Guard);

impl Resolver for GuardedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        if self.0 == Guard::None {
            return Ok(found);
        }
        let network = HostNetwork::read()?;
        let mut permitted = self.empty();
        for address in found.iter().filter(|a| self.0.permits(network.reach(a.ip()))) {
            permitted.push(*address);
        }
        if permitted.is_empty() {
            return Err(ureq::Error::Other(Box::new(Refused)));
        }
        Ok(permitted)
    }
}

/// All addresses of a host are refused.
#[derive(Debug, thiserror::Error)]
#[error("it {PROTECTED}")]
pub(crate) struct Refused;

/// The host of a URL.
pub(crate) fn host(url: &Url) -> Option<Host> {
    match url.host()? {
        url::Host::Domain(name) => name.parse().ok(),
        url::Host::Ipv4(address) => Some(Host::Address(address.into())),
        url::Host::Ipv6(address) => Some(Host::Address(address.into())),
    }
}

/// Whether a URL refers to this host, which no proxy can reach.
pub(crate) fn is_this_host(host: &Host) -> bool {
    match host {
        Host::Name(name) => local_name(name) == Some(reach::LocalName::Localhost),
        Host::Address(address) => reach::reach(*address) == Reach::Loopback,
    }
}

/// The network class of a URL as seen from this host: the most protected of its addresses' classes.
pub(crate) fn class(host: &Host) -> Reach {
    let network = HostNetwork::read().unwrap_or(HostNetwork::NONE);
    match host {
        Host::Address(address) => network.reach(*address),
        Host::Name(name) => match local_name(name) {
            Some(reach::LocalName::Localhost) => Reach::Loopback,
            Some(_) => Reach::Private,
            None => {
                let classes = addresses(name).into_iter().map(|address| network.reach(address));
                classes.max().unwrap_or(Reach::Public)
            }
        },
    }
}

/// Timeout of the lookup that determines a name's class. Without a responding name server, the
/// proxy resolves, and the name alone determines the class.
const LOOK_UP_MAX: Duration = Duration::from_secs(10);

fn addresses(name: &str) -> Vec<IpAddr> {
    let name = name.to_owned();
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    // The system's resolver cannot be cancelled; each redirect has one such thread.
    std::thread::spawn(move || {
        let found = (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
        let _ = sender.send(found.unwrap_or_default());
    });
    let found = receiver.recv_timeout(LOOK_UP_MAX).unwrap_or_default();
    found.into_iter().map(|address| address.ip()).collect()
}

/// The target of a redirect, if permitted.
///
/// # Errors
/// Fails with the reason.
pub(crate) fn target(from: &Url, location: &str) -> Result<Url, &'static str> {
    let to = from.join(location).map_err(|_| "which is not a URL")?;
    match to.scheme() {
        "https" => {}
        "http" if from.scheme() == "http" => {}
        "http" => return Err("which leads from https to http"),
        _ => return Err("which is neither http nor https"),
    }
    match host(&to) {
        Some(_) => Ok(to),
        None => Err("which names no host"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn urls_of_this_host() {
        let is_local = |text: &str| is_this_host(&host(&url(text)).unwrap());
        for text in
            ["http://localhost:80/x", "https://127.0.0.1/", "http://[::1]:1", "http://127.0.0.10/"]
        {
            assert!(is_local(text), "{text}");
        }
        for text in ["http://127.1/", "http://0x7f000001/", "http://a.localhost/"] {
            assert!(is_local(text), "{text}");
        }
        for text in [
            "http://localhost.evil.example/",
            "http://127.evil.example/",
            "http://m.example/localhost",
            "http://localhost@m.example/",
        ] {
            assert!(!is_local(text), "{text}");
        }
    }

    #[test]
    fn a_redirect_stays_https_and_http() {
        let from = |text: &str, to: &str| target(&url(text), to).map(|to| to.to_string());
        assert_eq!(from("http://a.example/x/y", "z").unwrap(), "http://a.example/x/z");
        assert_eq!(from("http://a.example/", "https://b.example/").unwrap(), "https://b.example/");
        assert_eq!(from("https://a.example/", "//b.example/").unwrap(), "https://b.example/");
        for to in ["http://a.example/", "ftp://a.example/", "file:///etc/passwd", "http://"] {
            assert!(from("https://a.example/", to).is_err(), "{to}");
        }
    }

    #[test]
    fn a_redirect_stays_in_the_class_of_the_first_address() {
        use Reach::{LinkLocal, Loopback, Metadata, OwnHost, Private, Public, Unusable};
        let permitted = |first: Reach| -> Vec<Reach> {
            [Public, Private, LinkLocal, Metadata, OwnHost, Loopback, Unusable]
                .into_iter()
                .filter(|class| Guard::Within(first).permits(*class))
                .collect()
        };
        assert_eq!(permitted(Public), [Public]);
        assert_eq!(permitted(Private), [Public, Private]);
        assert_eq!(permitted(Loopback), [Public, Private, OwnHost, Loopback]);
        assert_eq!(permitted(Metadata), [Public, Private, Metadata]);
        assert!(Guard::None.permits(Loopback));
    }

    #[test]
    fn the_class_of_a_url_is_that_of_its_host() {
        let of = |text: &str| class(&host(&url(text)).unwrap());
        assert_eq!(of("http://127.0.0.1/"), Reach::Loopback);
        assert_eq!(of("http://localhost/"), Reach::Loopback);
        assert_eq!(of("http://169.254.169.254/"), Reach::Metadata);
        assert_eq!(of("http://10.0.0.1/"), Reach::Private);
        assert_eq!(of("http://203.0.113.1/"), Reach::Public);
    }
}
