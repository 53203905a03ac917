//! Resolves names with the host's resolver.

use std::{
    future::Future,
    io,
    net::{IpAddr, ToSocketAddrs},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::sync::Semaphore;

use wire::egress::{Refusal, RefusalKind};

/// Maximum addresses used per name; more belong to a load balancer and are equivalent.
const ADDRESSES_MAX: usize = 16;

/// Maximum parallel lookups. The system's resolver blocks one thread per lookup, for up to some 30
/// s if no name server answers and beyond the end of the request, and the runtime has 512 such
/// threads for everything.
const LOOKUPS_MAX: usize = 32;

/// A resolver's answer.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Resolves names. Tests provide their own resolver.
pub trait Resolve: Send + Sync {
    /// Looks up the addresses of a name. No addresses, or an error of kind `NotFound`, mean that it
    /// does not exist.
    fn lookup<'a>(&'a self, name: &'a str) -> Lookup<'a>;
}

/// The host's resolver, with its hosts file, name servers and caches.
#[derive(Debug, Clone)]
pub struct SystemResolver {
    lookup: fn(&str) -> io::Result<Vec<IpAddr>>,
    slots: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { lookup: getaddrinfo, slots: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

fn getaddrinfo(name: &str) -> io::Result<Vec<IpAddr>> {
    // The port is required by the interface and has no effect.
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

impl Resolve for SystemResolver {
    fn lookup<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)?;
            let (lookup, name) = (self.lookup, name.to_owned());
            let found = tokio::task::spawn_blocking(move || {
                // Held until the thread is free, not just until the request ends.
                let _slot = slot;
                lookup(&name)
            });
            match found.await.map_err(io::Error::other)? {
                // std hides getaddrinfo's error code; only this message means that a retry may
                // help.
                Err(e) if !e.to_string().contains("Temporary failure") => {
                    Err(io::Error::new(io::ErrorKind::NotFound, e))
                }
                found => found,
            }
        })
    }
}

/// Resolves a name within `limit`; each address occurs once, in the resolver's order.
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
                if addresses.len() < ADDRESSES_MAX && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() { Err(gone()) } else { Ok(addresses) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Mutex;

    use super::*;

    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    static HANGS: Mutex<()> = Mutex::const_new(());

    /// Simulates a name server that does not answer.
    fn hangs(_: &str) -> io::Result<Vec<IpAddr>> {
        RUNNING.fetch_add(1, Ordering::SeqCst);
        drop(HANGS.blocking_lock());
        Err(io::Error::other("Temporary failure in name resolution"))
    }

    #[tokio::test]
    async fn names_that_nobody_waits_for_any_more_do_not_occupy_more_threads() {
        let held = HANGS.lock().await;
        let resolver = SystemResolver { lookup: hangs, ..SystemResolver::default() };
        for round in 0..3 {
            let asked = (0..LOOKUPS_MAX).map(|number| {
                let (resolver, name) = (resolver.clone(), format!("{round}-{number}.example"));
                tokio::spawn(async move {
                    resolve(&resolver, &name, Duration::from_millis(20)).await.unwrap_err().kind
                })
            });
            for ended in asked.collect::<Vec<_>>() {
                assert_eq!(ended.await.unwrap(), RefusalKind::Timeout);
            }
        }
        assert!(RUNNING.load(Ordering::SeqCst) <= LOOKUPS_MAX);
        drop(held);
        let late = resolve(&resolver, "late.example", Duration::from_secs(60)).await.unwrap_err();
        assert!(late.message.contains("Temporary failure"), "{late}");
    }
}
