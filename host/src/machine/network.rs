//! The guest's network for one run: the egress service behind a vsock port.

use std::{os::unix::net::UnixStream, sync::Arc};

use egress::{Egress, OnRecord, Policy};
use engine::{cache::Connections, events::Event};
use machine::{ConnectDecision, OnGuestConnect};
use tokio::runtime::Handle;

use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
};

/// The network of a run.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    egress: Arc<Egress>,
    handle: Handle,
}

impl Network {
    /// Creates the network that the settings allow; `None` if they allow none. Finished connections
    /// are also added to `connections`.
    ///
    /// # Errors
    /// Fails if an allowed host cannot be parsed, or the environment names a proxy that cannot be
    /// used.
    pub(crate) fn new(
        settings: &Settings,
        ctx: &RunContext,
        connections: Option<Connections>,
    ) -> Result<Option<Self>, CommandError> {
        if !settings.network {
            return Ok(None);
        }
        let observer = Arc::clone(&ctx.observer);
        let on_record = move |record: &egress::Record| {
            if let Some(connections) = &connections {
                connections.push(connection(record));
            }
            observer.event(&connection_event(record));
        };
        Self::with_policy(policy(settings)?, Arc::new(on_record)).map(Some)
    }

    /// Creates the network that a policy allows.
    ///
    /// # Errors
    /// Fails if the environment names a proxy that cannot be used.
    pub(crate) fn with_policy(policy: Policy, on_record: OnRecord) -> Result<Self, CommandError> {
        let egress = Egress::new(policy, on_record)?;
        Ok(Self { egress: Arc::new(egress), handle: Handle::current() })
    }

    fn stream(&self) -> std::io::Result<UnixStream> {
        let (guest, host) = UnixStream::pair()?;
        host.set_nonblocking(true)?;
        let _runtime = self.handle.enter();
        let host = tokio::net::UnixStream::from_std(host)?;
        let egress = Arc::clone(&self.egress);
        self.handle.spawn(async move { egress.serve(host).await });
        Ok(guest)
    }
}

impl engine::Network for Network {
    /// Connects one port to the egress service, and refuses all others.
    fn on_guest_connect(&self) -> OnGuestConnect {
        let network = self.clone();
        Arc::new(move |connect| {
            if connect.port != wire::EGRESS_PORT {
                return ConnectDecision::Refuse;
            }
            // Each stream is a descriptor of this process, so a guest that opens more than can be
            // served is refused further ones.
            if !network.egress.has_room() {
                return ConnectDecision::Refuse;
            }
            network.stream().map_or(ConnectDecision::Refuse, ConnectDecision::Accept)
        })
    }

    fn open(&self) {
        self.egress.open();
    }

    fn close(&self, reason: &str) {
        self.egress.close(reason);
    }
}

/// Checks that the network of the settings can be created, before anything is made for it.
pub(crate) fn check(settings: &Settings) -> Result<(), CommandError> {
    if settings.network {
        policy(settings)?;
        egress::Upstream::from_environment(|name| std::env::var_os(name))?;
    }
    Ok(())
}

fn policy(settings: &Settings) -> Result<Policy, CommandError> {
    let Settings { allow_hosts, allow_private, proxy_resolves, .. } = settings;
    rules(allow_hosts, *allow_private, *proxy_resolves)
}

/// Creates the policy for rules as they are written on the command line.
///
/// # Errors
/// Fails if an allowed host cannot be parsed.
pub(crate) fn rules(
    allow_hosts: &[String],
    allow_private: bool,
    proxy_resolves: bool,
) -> Result<Policy, CommandError> {
    let policy = Policy::new(allow_hosts, allow_private)
        .map_err(|error| CommandError::new(Kind::Usage, error))?;
    Ok(policy.with_proxy_resolves(proxy_resolves))
}

/// Returns the event that reports a connection.
pub(crate) fn connection_event(record: &egress::Record) -> Event {
    Event::Connection {
        host: record.host.clone(),
        port: record.port,
        sent: record.sent,
        received: record.received,
        refused: record.refused.clone(),
    }
}

/// Returns what the store keeps of a connection.
fn connection(record: &egress::Record) -> store::Connection {
    let fetched = record.http.iter().map(|exchange| store::Fetched {
        path: exchange.path.as_str().into(),
        status: exchange.status,
        bytes: exchange.body_bytes,
        sha256: exchange.sha256.as_ref().and_then(|hex| hex.parse().ok()),
    });
    store::Connection {
        host: record.host.as_str().into(),
        port: record.port,
        sent: record.sent,
        received: record.received,
        fetched: fetched.collect(),
        more_fetched: record.http_more,
    }
}
