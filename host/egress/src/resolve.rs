//! Names to addresses, by the host's own resolver.

use std::{future::Future, io, net::IpAddr, pin::Pin, time::Duration};

use crate::protocol::{Refusal, RefusalKind};

/// Addresses that are looked at for one name; a name with more of them is a
/// load balancer's, and the rest are alike.
const MAX_ADDRESSES: usize = 16;

/// A resolver's answer.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Resolves names. Tests have one of their own.
pub trait Resolve: Send + Sync {
    /// The addresses of a name. No addresses, or an error of the kind
    /// `NotFound`, mean that it does not exist.
    fn lookup<'a>(&'a self, name: &'a str) -> Lookup<'a>;
}

/// The host's resolver: its hosts file, its name servers, its caches.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn lookup<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            // The port is the interface's; it has no part in resolving.
            match tokio::net::lookup_host((name, 0)).await {
                Ok(found) => Ok(found.map(|a| a.ip()).collect()),
                // getaddrinfo's code does not get through; of its messages only
                // this one means that asking again may help.
                Err(e) if e.to_string().contains("Temporary failure") => Err(e),
                Err(e) => Err(io::Error::new(io::ErrorKind::NotFound, e)),
            }
        })
    }
}

/// Resolves a name within `limit`; each address once, in the resolver's order.
pub(crate) async fn resolve(
    resolver: &dyn Resolve,
    name: &str,
    limit: Duration,
) -> Result<Vec<IpAddr>, Refusal> {
    let gone = || Refusal::new(RefusalKind::Nxdomain, format!("{name} does not exist"));
    match tokio::time::timeout(limit, resolver.lookup(name)).await {
        Err(_) => {
            let message = format!("no answer for {name} within {} s", limit.as_secs());
            Err(Refusal::new(RefusalKind::Timeout, message))
        }
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => Err(gone()),
        Ok(Err(e)) => {
            Err(Refusal::new(RefusalKind::Timeout, format!("{name} could not be resolved: {e}")))
        }
        Ok(Ok(found)) => {
            let mut addresses = Vec::new();
            for address in found {
                if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() { Err(gone()) } else { Ok(addresses) }
        }
    }
}
