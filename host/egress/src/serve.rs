//! Serves one stream of the guest: request, policy, connection, relay.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use reach::{Host, HostNetwork, InvalidHost, InvalidProxy, Reach};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, watch},
};
use wire::egress::{EgressError, Message, Refusal, RefusalKind, Reply, Request};

use crate::{
    OnRecord, Policy, Record, Resolve, SystemResolver, Upstream, connect,
    http::{self, Budget, Observed},
    policy::refuse_address,
    relay::{self, Flow},
    resolve,
};

/// Limits on what a guest can make the host do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Maximum streams served in parallel. Package tools use a dozen connections; the rest is room
    /// for builds with parallel downloads.
    pub streams: usize,
    /// Maximum streams waiting to be served, first come first served; more are refused. Each takes
    /// a descriptor of this process.
    pub waiting: usize,
    /// Timeout from the start of the stream to the complete request.
    pub request: Duration,
    /// Timeout for resolving a name. Resolvers themselves give up after some 10 s.
    pub resolve: Duration,
    /// Timeout for connecting, for all addresses of a name together.
    pub connect: Duration,
    /// Idle timeout of a connection. It is long, because a server may take minutes before the first
    /// byte of a large response.
    pub idle: Duration,
    /// Memory for observed HTTP exchanges of all open connections together, in bytes.
    pub observed_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 256,
            waiting: 128,
            request: Duration::from_secs(30),
            resolve: Duration::from_secs(20),
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(15 * 60),
            observed_bytes: 32 << 20,
        }
    }
}

/// Lists the host's interfaces. Called for each request, since a laptop changes networks.
pub type ReadHostNetwork = Arc<dyn Fn() -> io::Result<HostNetwork> + Send + Sync>;

/// Options of an egress service that differ from the defaults.
#[derive(Clone)]
pub struct Options {
    /// The limits.
    pub limits: Limits,
    /// The user's proxy.
    pub upstream: Option<Upstream>,
    /// The resolver.
    pub resolver: Arc<dyn Resolve>,
    /// Lists the host's own addresses and networks.
    pub host_network: ReadHostNetwork,
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
            resolver: Arc::new(SystemResolver::default()),
            host_network: Arc::new(HostNetwork::read),
        }
    }
}

/// Sums over all streams so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Connections established.
    pub connected: u64,
    /// Requests refused.
    pub refused: u64,
    /// Bytes sent to servers on ended connections.
    pub sent: u64,
    /// Bytes received from servers on ended connections.
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
    /// Limits streams, served or waiting.
    places: Semaphore,
    /// Limits streams being served.
    slots: Semaphore,
    budget: Arc<Budget>,
    /// The reason why the network is closed at present, if it is.
    closed: watch::Sender<Option<Arc<str>>>,
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

/// How to reach a host.
#[derive(Debug)]
enum Route<'a> {
    /// Directly, at one of these addresses.
    Direct(Vec<IpAddr>),
    /// Through the user's proxy, which is asked for one of these hosts.
    Proxy(&'a Upstream, Vec<Host>),
}

/// An established connection.
struct Connected {
    stream: TcpStream,
    address: Option<IpAddr>,
}

/// Why a stream is not served.
enum Ended {
    /// The guest has closed it, so it gets no answer.
    Gone,
    Refused(Refusal),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Egress {
    /// Creates the service with a policy, and with the proxy of this process's environment.
    ///
    /// # Errors
    /// Fails if the environment names an unusable proxy.
    pub fn new(policy: Policy, on_record: OnRecord) -> Result<Self, InvalidProxy> {
        let upstream = Upstream::from_environment(|name| std::env::var_os(name))?;
        let options = Options { upstream, ..Options::default() };
        Ok(Self::with_options(policy, on_record, options))
    }

    /// Creates the service with all options.
    #[must_use]
    pub fn with_options(policy: Policy, on_record: OnRecord, options: Options) -> Self {
        let limits = &options.limits;
        Self {
            places: Semaphore::new(limits.streams + limits.waiting),
            slots: Semaphore::new(limits.streams),
            budget: Arc::new(Budget::new(limits.observed_bytes)),
            closed: watch::Sender::new(None),
            counters: Counters::default(),
            policy,
            options,
            on_record,
        }
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

    /// Whether one more stream can be served or wait. A caller that needs a descriptor per stream
    /// checks this first.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.places.available_permits() > 0
    }

    /// Refuses all requests from now on, with a reason for the user, and ends existing connections.
    pub fn close(&self, reason: &str) {
        self.closed.send_replace(Some(reason.into()));
    }

    /// Serves requests again.
    pub fn open(&self) {
        self.closed.send_replace(None);
    }

    /// Serves one stream of the guest to its end. No action of the guest is an error of the caller:
    /// the guest gets replies, and the observer gets connections and refusals as records.
    pub async fn serve(&self, mut guest: impl AsyncRead + AsyncWrite + Unpin + Send) {
        let Ok(_place) = self.places.try_acquire() else {
            let message = format!("{} streams wait already", self.options.limits.waiting);
            tracing::info!("a guest stream is refused: {message}");
            reply(&mut guest, &Reply::refused(&Refusal::new(RefusalKind::Timeout, message))).await;
            return;
        };
        let started = Instant::now();
        let request = match self.read(&mut guest).await {
            Ok(Some(request)) => request,
            Ok(None) => return tracing::debug!("a guest stream without a request"),
            Err(refusal) => {
                tracing::info!(%refusal, "a guest stream without a request");
                return reply(&mut guest, &Reply::refused(&refusal)).await;
            }
        };
        let _slot = tokio::select! {
            biased;
            () = closed_by_guest(&mut guest) => return tracing::debug!("a waiting guest stream has gone"),
            // The semaphore is never closed.
            slot = self.slots.acquire() => slot,
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
            http_more: 0,
        };
        let served = match request {
            Request::Connect { host, port, .. } => {
                self.serve_connection(&mut guest, &host, port, &mut record).await
            }
            Request::Resolve { name, .. } => {
                match self.while_open(&mut guest, self.resolve(&name)).await {
                    // The connection that follows is recorded instead.
                    Ok(count) => return reply(&mut guest, &Reply::ok(Some(count))).await,
                    Err(ended) => Err(ended),
                }
            }
        };
        match served {
            Ok(()) => {}
            Err(Ended::Gone) => return tracing::debug!(?record, "a guest stream has gone"),
            Err(Ended::Refused(refusal)) => {
                let answer = Reply::refused(&refusal);
                // Programs often look up names that do not exist.
                if port != 0 || refusal.kind != RefusalKind::Nxdomain {
                    record.refused = Some(refusal.message);
                    record.elapsed = started.elapsed();
                    // Recorded before the guest gets the reply, so that the record belongs to the
                    // script that sent the request.
                    self.account(&record);
                }
                return reply(&mut guest, &answer).await;
            }
        }
        record.elapsed = started.elapsed();
        self.account(&record);
    }

    /// Reads the request; `None` if the guest closes the stream without one.
    async fn read(
        &self,
        guest: &mut (impl AsyncRead + Unpin + Send),
    ) -> Result<Option<Request>, Refusal> {
        let limit = self.options.limits.request;
        match tokio::time::timeout(limit, Request::read_async(guest)).await {
            Ok(Ok(request)) => Ok(Some(request)),
            Ok(Err(EgressError::Io(_))) => Ok(None),
            Ok(Err(e)) => Err(Refusal::policy(e.to_string())),
            Err(_) => {
                let message = format!("no request within {} s", limit.as_secs());
                Err(Refusal::new(RefusalKind::Timeout, message))
            }
        }
    }

    /// Runs a request of the guest, until the guest closes the stream or the network is closed.
    async fn while_open<T>(
        &self,
        guest: &mut (impl AsyncRead + Unpin + Send),
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Ended> {
        tokio::select! {
            biased;
            reason = self.closing() => Err(Refusal::policy(&*reason).into()),
            () = closed_by_guest(guest) => Err(Ended::Gone),
            done = work => Ok(done?),
        }
    }

    /// Completes when the network is closed, with the reason.
    async fn closing(&self) -> Arc<str> {
        let mut closed = self.closed.subscribe();
        let reason = closed.wait_for(Option::is_some).await.ok().and_then(|now| now.clone());
        match reason {
            Some(reason) => reason,
            // The sender lives as long as this service.
            None => std::future::pending().await,
        }
    }

    async fn serve_connection(
        &self,
        guest: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
        host: &str,
        port: u16,
        record: &mut Record,
    ) -> Result<(), Ended> {
        let host = parse(host)?;
        let connected = self.while_open(guest, self.connect(&host, port)).await?;
        self.counters.connected.fetch_add(1, Ordering::Relaxed);
        record.address = connected.address;
        let flow = Flow::default();
        let mut done = Reply::ok(None).write_async(guest).await.map_err(io::Error::other);
        if done.is_ok() {
            let idle = self.options.limits.idle;
            let observed = (port == http::PORT).then(|| Observed::new(Arc::clone(&self.budget)));
            done = tokio::select! {
                biased;
                reason = self.closing() => Err(io::Error::other(&*reason)),
                done = relay::relay(guest, connected.stream, &flow, idle, observed.as_ref()) => done,
            };
            if let Some(observed) = observed {
                (record.http, record.http_more) = observed.finish(done.is_ok());
            }
        }
        record.sent = flow.up.into_inner();
        record.received = flow.down.into_inner();
        record.broken = done.err().map(|e| e.to_string());
        Ok(())
    }

    /// Resolves a name; returns the number of its addresses that may be reached.
    async fn resolve(&self, name: &str) -> Result<u32, Refusal> {
        Ok(match self.route(&parse(name)?, None).await? {
            Route::Direct(addresses) => u32::try_from(addresses.len()).unwrap_or(u32::MAX),
            Route::Proxy(_, targets) => u32::try_from(targets.len()).unwrap_or(u32::MAX),
        })
    }

    async fn connect(&self, host: &Host, port: u16) -> Result<Connected, Refusal> {
        if port == 0 {
            return Err(Refusal::policy("port 0 is not valid"));
        }
        let limit = self.options.limits.connect;
        let addresses = match self.route(host, Some(port)).await? {
            Route::Direct(addresses) => addresses,
            Route::Proxy(proxy, targets) => {
                let stream = proxy.connect(&targets, port, limit).await;
                let by_address = !targets.contains(host);
                let stream = stream.map_err(|refusal| match refusal.kind {
                    RefusalKind::Refused if by_address => Refusal {
                        message: format!(
                            "{} ({host}); if the proxy decides by name, --proxy-resolves gives it \
                             the name",
                            refusal.message
                        ),
                        ..refusal
                    },
                    _ => refusal,
                })?;
                return Ok(Connected { stream, address: None });
            }
        };
        let stream = connect::connect(&addresses, port, limit).await?;
        let address = stream.peer_addr().ok().map(|a| a.ip());
        // This check does not depend on the list of interfaces: an address may be local by a route,
        // or since a moment ago.
        if let Some(address) = address
            && connect::is_to_this_host(&stream)
            && !self.policy.spells_out(host, Some(port), address)
        {
            return Err(refuse_address(host, address, Reach::OwnHost));
        }
        Ok(Connected { stream, address })
    }

    /// How this host may be reached, if the policy allows it.
    async fn route(&self, host: &Host, port: Option<u16>) -> Result<Route<'_>, Refusal> {
        self.policy.check_host(host, port)?;
        let proxy = self.options.upstream.as_ref();
        let proxy = proxy.filter(|proxy| !proxy.bypasses(host, port));
        let given = self.policy.given_addresses(host, port);
        if let Some(proxy) = proxy
            && given.is_empty()
            && self.policy.leaves_to_proxy(host)
        {
            return Ok(Route::Proxy(proxy, vec![host.clone()]));
        }
        let network = (self.options.host_network)().map_err(|error| {
            Refusal::policy(format!("the host's own addresses cannot be listed: {error}"))
        })?;
        let found = if given.is_empty() { self.find(host, proxy).await? } else { given };
        let allowed = self.allowed(host, port, found, &network)?;
        let Some(proxy) = proxy else { return Ok(Route::Direct(allowed)) };
        // A proxy cannot reach addresses that only this host has.
        let direct = |address: &IpAddr| {
            network.reach(*address).is_local() || proxy.bypasses(&Host::Address(*address), port)
        };
        let (near, far): (Vec<IpAddr>, Vec<IpAddr>) = allowed.into_iter().partition(direct);
        if near.is_empty() {
            Ok(Route::Proxy(proxy, far.into_iter().map(Host::Address).collect()))
        } else {
            Ok(Route::Direct(near))
        }
    }

    /// The addresses of a host.
    async fn find(&self, host: &Host, proxy: Option<&Upstream>) -> Result<Vec<IpAddr>, Refusal> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name,
        };
        let limit = self.options.limits.resolve;
        let found = resolve::resolve(self.options.resolver.as_ref(), name, limit).await;
        match (found, proxy) {
            // Behind a proxy, hosts often cannot resolve public names. Sending the name instead
            // would let its owner choose the address to which the proxy connects.
            (Err(refusal), Some(proxy)) => Err(Refusal::policy(format!(
                "{}, seen from this host; the proxy {} is asked for checked addresses only, and \
                 --proxy-resolves lets it resolve names itself",
                refusal.message,
                proxy.describe()
            ))),
            (found, _) => found,
        }
    }

    /// The addresses that the policy allows; fails if there are none.
    fn allowed(
        &self,
        host: &Host,
        port: Option<u16>,
        found: Vec<IpAddr>,
        network: &HostNetwork,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let mut allowed = Vec::new();
        let mut refusal = Refusal::policy(format!("{host} has no address"));
        for address in found {
            match self.policy.check_address(host, port, address, network) {
                Ok(()) => allowed.push(address),
                Err(refused) => refusal = refused,
            }
        }
        if allowed.is_empty() { Err(refusal) } else { Ok(allowed) }
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

/// A name from the guest, made printable for logs.
fn printable(name: &str) -> String {
    name.chars().take(253).flat_map(char::escape_default).collect()
}

/// Sends a reply; errors are ignored, since the guest may be gone.
async fn reply(guest: &mut (impl AsyncWrite + Unpin + Send), reply: &Reply) {
    let _ = reply.write_async(guest).await;
}

/// Completes when the guest closes its stream, or sends unexpected data: it must not send anything
/// between its one request and the reply.
async fn closed_by_guest(guest: &mut (impl AsyncRead + Unpin + Send)) {
    let _ = guest.read_u8().await;
}
