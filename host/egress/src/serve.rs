//! One stream of the guest: its request, the policy, the connection, the bytes.

use std::{
    net::IpAddr,
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

use crate::{
    Host, InvalidHost, OnRecord, Policy, Record, Resolve, SystemResolver, Upstream, connect,
    http::{self, Observed},
    protocol::{self, ProtocolError, Refusal, RefusalKind, Reply, Request},
    relay::{self, Flow},
    resolve,
};

/// Bounds on what a guest can make the host do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams served at the same time; more of them wait, first come first
    /// served. Package tools use a dozen connections; the rest is room for
    /// builds that download in parallel.
    pub streams: usize,
    /// From the stream's turn to its request.
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
            streams: 256,
            request: Duration::from_secs(30),
            resolve: Duration::from_secs(20),
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(15 * 60),
        }
    }
}

/// What an egress service does differently from the usual.
#[derive(Clone)]
pub struct Options {
    /// Bounds.
    pub limits: Limits,
    /// The user's proxy.
    pub upstream: Option<Upstream>,
    /// Names to addresses.
    pub resolver: Arc<dyn Resolve>,
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
        Self { limits: Limits::default(), upstream: None, resolver: Arc::new(SystemResolver) }
    }
}

/// Sums over all streams so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Connections that were made.
    pub connected: u64,
    /// Requests that were not granted.
    pub refused: u64,
    /// Bytes to servers, of ended connections.
    pub sent: u64,
    /// Bytes from servers, of ended connections.
    pub received: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connected: AtomicU64,
    refused: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// The egress service of one run.
pub struct Egress {
    policy: Policy,
    options: Options,
    on_record: OnRecord,
    slots: Semaphore,
    counters: Counters,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress")
            .field("policy", &self.policy)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A connection that has been made.
struct Connected {
    stream: TcpStream,
    address: Option<IpAddr>,
}

impl Egress {
    /// The service with a policy, and the proxy of this process's environment.
    /// A proxy that cannot be used is reported in the log and not used.
    #[must_use]
    pub fn new(policy: Policy, on_record: OnRecord) -> Self {
        let upstream = Upstream::from_environment(|name| std::env::var(name).ok());
        let upstream = upstream.unwrap_or_else(|error| {
            tracing::warn!(%error, "connecting without the proxy");
            None
        });
        Self::with_options(policy, on_record, Options { upstream, ..Options::default() })
    }

    /// The service with everything given.
    #[must_use]
    pub fn with_options(policy: Policy, on_record: OnRecord, options: Options) -> Self {
        let slots = Semaphore::new(options.limits.streams);
        Self { policy, options, on_record, slots, counters: Counters::default() }
    }

    /// Sums over all streams so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            connected: get(&self.counters.connected),
            refused: get(&self.counters.refused),
            sent: get(&self.counters.sent),
            received: get(&self.counters.received),
        }
    }

    /// Serves one stream of the guest to its end. Nothing that the guest does
    /// here is an error of the caller: everything goes to the guest as a reply,
    /// and connections and refusals to the observer as records.
    pub async fn serve(&self, mut guest: impl AsyncRead + AsyncWrite + Unpin + Send) {
        // The semaphore is never closed.
        let Ok(_slot) = self.slots.acquire().await else { return };
        let started = Instant::now();
        let request = match self.read(&mut guest).await {
            Ok(Some(request)) => request,
            Ok(None) => return tracing::debug!("a guest stream without a request"),
            Err(refusal) => {
                tracing::info!(%refusal, "a guest stream without a request");
                // A guest that has gone needs no answer; here and below.
                let _ = protocol::write_frame(&mut guest, &Reply::refused(&refusal)).await;
                return;
            }
        };
        let (host, port) = match &request {
            Request::Connect { host, port, .. } => (printable(host), *port),
            Request::Resolve { name, .. } => (printable(name), 0),
        };
        let mut record = Record {
            host,
            port,
            address: None,
            sent: 0,
            received: 0,
            elapsed: Duration::ZERO,
            refused: None,
            broken: None,
            http: Vec::new(),
        };
        let served = match request {
            Request::Connect { host, port, .. } => {
                self.serve_connection(&mut guest, &host, port, &mut record).await
            }
            Request::Resolve { name, .. } => match self.resolve(&name).await {
                Ok(count) => {
                    let _ = protocol::write_frame(&mut guest, &Reply::ok(Some(count))).await;
                    // The connection that follows is what is worth a record.
                    return;
                }
                Err(refusal) => Err(refusal),
            },
        };
        if let Err(refusal) = served {
            let _ = protocol::write_frame(&mut guest, &Reply::refused(&refusal)).await;
            // Programs ask for names that do not exist all the time.
            if port == 0 && refusal.kind == RefusalKind::Nxdomain {
                return;
            }
            record.refused = Some(refusal.message);
        }
        record.elapsed = started.elapsed();
        self.account(&record);
    }

    /// Reads the request; `None` when the guest ends the stream without one.
    async fn read(
        &self,
        guest: &mut (impl AsyncRead + Unpin + Send),
    ) -> Result<Option<Request>, Refusal> {
        let limit = self.options.limits.request;
        match tokio::time::timeout(limit, protocol::read_request(guest)).await {
            Ok(Ok(request)) => Ok(Some(request)),
            Ok(Err(ProtocolError::Io(_))) => Ok(None),
            Ok(Err(e)) => Err(Refusal::policy(e.to_string())),
            Err(_) => {
                let message = format!("no request within {} s", limit.as_secs());
                Err(Refusal::new(RefusalKind::Timeout, message))
            }
        }
    }

    async fn serve_connection(
        &self,
        guest: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
        host: &str,
        port: u16,
        record: &mut Record,
    ) -> Result<(), Refusal> {
        let connected = self.connect(&parse(host)?, port).await?;
        self.counters.connected.fetch_add(1, Ordering::Relaxed);
        record.address = connected.address;
        let flow = Flow::default();
        let mut done = protocol::write_frame(guest, &Reply::ok(None)).await;
        if done.is_ok() {
            let idle = self.options.limits.idle;
            let observed = (port == http::PORT).then(Observed::default);
            done = relay::relay(guest, connected.stream, &flow, idle, observed.as_ref()).await;
            record.http = observed.map(|o| o.finish(done.is_ok())).unwrap_or_default();
        }
        record.sent = flow.up.into_inner();
        record.received = flow.down.into_inner();
        record.broken = done.err().map(|e| e.to_string());
        Ok(())
    }

    /// How many addresses of this host may be reached.
    async fn resolve(&self, name: &str) -> Result<u32, Refusal> {
        let host = parse(name)?;
        self.policy.check_host(&host, None)?;
        if self.proxy_for(&host).is_some() {
            // Often only the proxy can resolve; the connection will tell.
            return Ok(1);
        }
        let allowed = self.addresses(&host, None).await?;
        Ok(u32::try_from(allowed.len()).unwrap_or(u32::MAX))
    }

    async fn connect(&self, host: &Host, port: u16) -> Result<Connected, Refusal> {
        if port == 0 {
            return Err(Refusal::policy("port 0 is none"));
        }
        self.policy.check_host(host, Some(port))?;
        let limit = self.options.limits.connect;
        if let Some(proxy) = self.proxy_for(host) {
            let stream = proxy.connect(host, port, limit).await?;
            return Ok(Connected { stream, address: None });
        }
        let addresses = self.addresses(host, Some(port)).await?;
        let stream = connect::connect(&addresses, port, limit).await?;
        let address = stream.peer_addr().ok().map(|a| a.ip());
        Ok(Connected { stream, address })
    }

    fn proxy_for(&self, host: &Host) -> Option<&Upstream> {
        self.options.upstream.as_ref().filter(|proxy| !proxy.bypasses(host))
    }

    /// The addresses of a host that the policy allows.
    async fn addresses(&self, host: &Host, port: Option<u16>) -> Result<Vec<IpAddr>, Refusal> {
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
        let counters = &self.counters;
        counters.sent.fetch_add(record.sent, Ordering::Relaxed);
        counters.received.fetch_add(record.received, Ordering::Relaxed);
        if record.refused.is_some() {
            counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        tracing::debug!(?record, "a guest stream has ended");
        (self.on_record)(record);
    }
}

fn parse(host: &str) -> Result<Host, Refusal> {
    host.parse().map_err(|e: InvalidHost| Refusal::policy(e.to_string()))
}

/// A name from the guest as it may appear in logs.
fn printable(name: &str) -> String {
    name.chars().take(253).flat_map(char::escape_default).collect()
}
