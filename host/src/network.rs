//! The guest's way out, for one run: the egress service behind a vsock port.

use std::{os::unix::net::UnixStream, sync::Arc};

use egress::{Egress, Policy};
use engine::{cache::Connections, events::Event};
use machine::{ConnectDecision, OnGuestConnect};
use tokio::runtime::Handle;

use crate::{
    error::{CommandError, Kind},
    pipeline::Ctx,
    settings::Settings,
};

/// The network of a run.
#[derive(Debug, Clone)]
pub struct Network {
    egress: Arc<Egress>,
    handle: Handle,
}

impl Network {
    /// The network that the settings allow; `None` when they allow none. What was
    /// fetched goes to `connections` too.
    ///
    /// # Errors
    /// When an allowed host cannot be understood.
    pub fn new(
        settings: &Settings,
        ctx: &Ctx,
        connections: Option<Connections>,
    ) -> Result<Option<Self>, CommandError> {
        if !settings.network {
            return Ok(None);
        }
        let policy = Policy::new(&settings.allow_hosts, settings.allow_private)
            .map_err(|error| CommandError::new(Kind::Usage, error))?;
        let observer = Arc::clone(&ctx.observer);
        let egress = Egress::new(
            policy,
            Arc::new(move |record: &egress::Record| {
                if let Some(connections) = &connections {
                    connections.push(connection(record));
                }
                observer.event(&Event::Connection {
                    host: record.host.clone(),
                    port: record.port,
                    sent: record.sent,
                    received: record.received,
                    refused: record.refused.clone(),
                });
            }),
        );
        Ok(Some(Self { egress: Arc::new(egress), handle: Handle::current() }))
    }

    /// The door for the machine: one port leads to the egress service, every
    /// other one nowhere.
    #[must_use]
    pub fn door(&self) -> OnGuestConnect {
        let network = self.clone();
        Arc::new(move |connect| {
            if connect.port != wire::EGRESS_PORT {
                return ConnectDecision::Refuse;
            }
            network.open().map_or(ConnectDecision::Refuse, ConnectDecision::Accept)
        })
    }

    fn open(&self) -> std::io::Result<UnixStream> {
        let (guest, host) = UnixStream::pair()?;
        host.set_nonblocking(true)?;
        let _runtime = self.handle.enter();
        let host = tokio::net::UnixStream::from_std(host)?;
        let egress = Arc::clone(&self.egress);
        self.handle.spawn(async move { egress.serve(host).await });
        Ok(guest)
    }
}

/// What the store keeps of a connection.
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
    }
}
