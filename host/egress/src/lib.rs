//! The host end of the guest's network: policy, resolver, connector, log.
//!
//! The guest has no network device. Its agent opens one vsock stream for each
//! TCP connection that a program in the guest makes, and says in one frame where
//! to ([`protocol`]). Here the name is checked against the user's [`Policy`],
//! resolved, each address checked again, and one of exactly these addresses
//! connected to; then bytes go both ways and the end is logged. Without this
//! crate behind the port there is no network.
//!
//! Architecture invariant: nothing here knows about machines or the agent; the
//! stream is any byte stream.

mod address;
mod connect;
mod policy;
pub mod protocol;
mod record;
mod relay;
mod resolve;
mod upstream;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
};

pub use address::{Reach, reach};
pub use policy::{Host, InvalidHost, Policy, Refused, Rule};
use protocol::{ProtocolError, Refusal, Reply, Request};
pub use record::{LogOnly, Observer, Outcome, Record};
use relay::Flow;
pub use resolve::{Lookup, Resolve, SystemResolver};
pub use upstream::{InvalidProxy, Upstream};

/// Bounds on what a guest can make the host do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests at the same time. Package tools use a dozen connections; the
    /// rest is room for builds that download in parallel.
    pub connections: usize,
    /// From the stream's start to the request.
    pub request: Duration,
    /// For resolving one name. Resolvers themselves give up after some 10 s.
    pub resolve: Duration,
    /// For connecting, all addresses of a name together.
    pub connect: Duration,
    /// A connection on which nothing moves ends. Long, for a server may think
    /// for minutes before the first byte of a large answer.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            request: Duration::from_secs(10),
            resolve: Duration::from_secs(20),
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(15 * 60),
        }
    }
}

/// Everything but the policy.
#[derive(Clone)]
pub struct Options {
    /// Bounds.
    pub limits: Limits,
    /// The user's proxy.
    pub upstream: Option<Upstream>,
    /// Names to addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Is told about each request.
    pub observer: Arc<dyn Observer>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("limits", &self.limits)
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            upstream: None,
            resolver: Arc::new(SystemResolver),
            observer: Arc::new(LogOnly),
        }
    }
}

/// Sums over all requests so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Connections that were made.
    pub connected: u64,
    /// Requests that were not granted.
    pub refused: u64,
    /// Bytes from the guest, of ended connections.
    pub bytes_up: u64,
    /// Bytes to the guest, of ended connections.
    pub bytes_down: u64,
}

/// The host end of one guest's network.
#[derive(Debug)]
pub struct Egress {
    policy: Policy,
    options: Options,
    slots: Semaphore,
    requests: AtomicU64,
    connected: AtomicU64,
    refused: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

/// A connection that has been made.
struct Connected {
    stream: TcpStream,
    address: Option<SocketAddr>,
}

impl Egress {
    /// A network that follows this policy.
    #[must_use]
    pub fn new(policy: Policy, options: Options) -> Self {
        let slots = Semaphore::new(options.limits.connections);
        let zero = || AtomicU64::new(0);
        Self {
            policy,
            options,
            slots,
            requests: zero(),
            connected: zero(),
            refused: zero(),
            up: zero(),
            down: zero(),
        }
    }

    /// Sums over all requests so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            connected: get(&self.connected),
            refused: get(&self.refused),
            bytes_up: get(&self.up),
            bytes_down: get(&self.down),
        }
    }

    /// Serves one stream of the guest until it ends. Nothing that the guest
    /// does here is an error of the caller: everything goes to the guest as a
    /// reply and to the observer as a record.
    pub async fn serve(&self, mut guest: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let started = Instant::now();
        let id = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mut record = Record {
            id,
            host: String::new(),
            port: None,
            outcome: Outcome::Resolved(0),
            bytes_up: 0,
            bytes_down: 0,
            duration: Duration::ZERO,
        };
        let flow = Flow::default();
        record.outcome = match self.answer(&mut guest, &mut record, &flow).await {
            Ok(outcome) => outcome,
            Err(Refused { kind, message }) => {
                let reply = Reply::refused(kind, &message);
                // A guest that has gone needs no answer.
                let _ = protocol::write_frame(&mut guest, &reply).await;
                Outcome::Refused { kind, message }
            }
        };
        record.bytes_up = flow.up.into_inner();
        record.bytes_down = flow.down.into_inner();
        record.duration = started.elapsed();
        self.account(&record);
    }

    async fn answer(
        &self,
        guest: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
        record: &mut Record,
        flow: &Flow,
    ) -> Result<Outcome, Refused> {
        let Ok(_slot) = self.slots.try_acquire() else {
            let message = format!("more than {} connections", self.options.limits.connections);
            return Err(Refused::new(Refusal::Policy, message));
        };
        match self.read(guest).await? {
            Request::Resolve { name, .. } => {
                record.host = printable(&name);
                let count = self.resolve(&parse(&name)?).await?;
                let sent = protocol::write_frame(guest, &Reply::resolved(count)).await;
                sent.map_err(|e| Refused::new(Refusal::Policy, e.to_string()))?;
                Ok(Outcome::Resolved(count))
            }
            Request::Connect { host, port, .. } => {
                (record.host, record.port) = (printable(&host), Some(port));
                let connected = self.connect(&parse(&host)?, port).await?;
                self.connected.fetch_add(1, Ordering::Relaxed);
                self.options.observer.opened(record.id, &record.host, port);
                let address = connected.address;
                let done = self.join(guest, connected, flow).await;
                let broken = done.err().map(|e| e.to_string());
                Ok(Outcome::Connected { address, broken })
            }
        }
    }

    async fn read(
        &self,
        guest: &mut (impl AsyncRead + Unpin + Send),
    ) -> Result<Request, Refused> {
        let limit = self.options.limits.request;
        let request = tokio::time::timeout(limit, protocol::read_request(guest)).await;
        match request {
            Ok(Ok(request)) => Ok(request),
            Ok(Err(ProtocolError::Io(e))) => {
                Err(Refused::new(Refusal::Policy, format!("no request: {e}")))
            }
            Ok(Err(e)) => Err(Refused::new(Refusal::Policy, e.to_string())),
            Err(_) => {
                let message = format!("no request within {} s", limit.as_secs());
                Err(Refused::new(Refusal::Timeout, message))
            }
        }
    }

    async fn join(
        &self,
        guest: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
        connected: Connected,
        flow: &Flow,
    ) -> std::io::Result<()> {
        protocol::write_frame(guest, &Reply::granted()).await?;
        relay::relay(guest, connected.stream, flow, self.options.limits.idle, None).await
    }

    /// How many addresses of this host may be reached.
    async fn resolve(&self, host: &Host) -> Result<u32, Refused> {
        self.policy.check_host(host, None)?;
        if self.proxy_for(host).is_some() {
            // The proxy resolves; whether the name exists shows on connecting.
            return Ok(1);
        }
        let allowed = self.addresses(host, None).await?;
        Ok(u32::try_from(allowed.len()).unwrap_or(u32::MAX))
    }

    async fn connect(&self, host: &Host, port: u16) -> Result<Connected, Refused> {
        if port == 0 {
            return Err(Refused::new(Refusal::Policy, "port 0 is none"));
        }
        self.policy.check_host(host, Some(port))?;
        let limit = self.options.limits.connect;
        if let Some(proxy) = self.proxy_for(host) {
            let stream = proxy.connect(host, port, limit).await?;
            return Ok(Connected { stream, address: None });
        }
        let addresses = self.addresses(host, Some(port)).await?;
        let stream = connect::connect(&addresses, port, limit).await?;
        let address = stream.peer_addr().ok();
        Ok(Connected { stream, address })
    }

    fn proxy_for(&self, host: &Host) -> Option<&Upstream> {
        self.options.upstream.as_ref().filter(|proxy| !proxy.bypasses(host))
    }

    /// The addresses of a host that the policy allows.
    async fn addresses(&self, host: &Host, port: Option<u16>) -> Result<Vec<IpAddr>, Refused> {
        let found = match host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let resolver = self.options.resolver.as_ref();
                resolve::resolve(resolver, name, self.options.limits.resolve).await?
            }
        };
        let mut allowed = Vec::new();
        let mut refusal = None;
        for address in found {
            match self.policy.check_address(host, port, address) {
                Ok(()) => allowed.push(address),
                Err(refused) => refusal = Some(refused),
            }
        }
        match refusal {
            Some(refused) if allowed.is_empty() => Err(refused),
            _ => Ok(allowed),
        }
    }

    fn account(&self, record: &Record) {
        self.up.fetch_add(record.bytes_up, Ordering::Relaxed);
        self.down.fetch_add(record.bytes_down, Ordering::Relaxed);
        if let Outcome::Refused { kind, message } = &record.outcome {
            self.refused.fetch_add(1, Ordering::Relaxed);
            tracing::info!(id = record.id, host = record.host, ?kind, message, "refused");
        } else {
            tracing::debug!(
                id = record.id,
                host = record.host,
                port = record.port,
                up = record.bytes_up,
                down = record.bytes_down,
                outcome = ?record.outcome,
                "ended"
            );
        }
        self.options.observer.ended(record);
    }
}

fn parse(host: &str) -> Result<Host, Refused> {
    host.parse().map_err(|e: InvalidHost| Refused::new(Refusal::Policy, e.to_string()))
}

/// A name from the guest as it may appear in logs.
fn printable(name: &str) -> String {
    name.chars().take(253).flat_map(char::escape_default).collect()
}
