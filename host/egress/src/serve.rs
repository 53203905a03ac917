//! One stream of the guest: its request, the policy, the connection, the bytes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    policy::Policy,
    protocol::{self, Operation, Refusal, RefusalKind, Reply, Request, VERSION},
    proxy::Proxy,
};

/// Connections at once. apt uses a handful, pip ten; a guest that opens more
/// waits.
const CONNECTIONS_MAX: usize = 512;
/// How long the guest may take to say what it wants.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long one address may take to answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// Addresses tried of one name.
const ADDRESSES_MAX: usize = 8;
/// Bytes copied at once: as much as one vsock packet carries.
const COPY_BYTES: usize = 64 * 1024;

/// A connection that has ended, or was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name or address that was asked for.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The address that was connected to; none behind a proxy.
    pub address: Option<IpAddr>,
    /// Bytes to the server.
    pub sent: u64,
    /// Bytes from the server.
    pub received: u64,
    /// From the request to the end.
    pub elapsed: Duration,
    /// Why it was refused, if it was.
    pub refused: Option<String>,
}

/// Takes records, from any task, without blocking.
pub type OnRecord = Arc<dyn Fn(&Record) + Send + Sync>;

/// The egress service of one run.
pub struct Egress {
    policy: Policy,
    proxy: Option<Proxy>,
    on_record: OnRecord,
    connections: Semaphore,
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress")
            .field("policy", &self.policy)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}

impl Egress {
    /// The service with a policy, and the proxy of this process's environment.
    #[must_use]
    pub fn new(policy: Policy, on_record: OnRecord) -> Self {
        let proxy = Proxy::from_environment(|name| std::env::var(name).ok());
        Self::with_proxy(policy, on_record, proxy)
    }

    /// The service with a proxy, or with none.
    #[must_use]
    pub fn with_proxy(policy: Policy, on_record: OnRecord, proxy: Option<Proxy>) -> Self {
        Self { policy, proxy, on_record, connections: Semaphore::new(CONNECTIONS_MAX) }
    }

    /// Serves one stream of the guest to its end.
    pub async fn serve(&self, mut guest: UnixStream) {
        let Ok(_permit) = self.connections.acquire().await else { return };
        let request = timeout(REQUEST_DEADLINE, protocol::read::<Request, _>(&mut guest)).await;
        let Ok(Ok(request)) = request else {
            tracing::debug!("a guest stream without a request");
            return;
        };
        // Failures from here on are the guest's streams ending early; the
        // record says what was transferred until then.
        let served = match (request.v, request.op, request.host, request.port, request.name) {
            (VERSION, Operation::Connect, Some(host), Some(port), _) => {
                self.serve_connection(guest, &host, port).await
            }
            (VERSION, Operation::Resolve, _, _, Some(name)) => {
                let reply = match self.resolve(&name).await {
                    Ok(count) => Reply::ok(Some(count)),
                    Err(refusal) => Reply::refused(&refusal),
                };
                protocol::write(&mut guest, &reply).await
            }
            _ => Ok(()),
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a guest stream ended early");
        }
    }

    /// How many addresses a name has that the guest may connect to.
    async fn resolve(&self, name: &str) -> Result<usize, Refusal> {
        let named = self.policy.check_name(name, None)?;
        if self.proxy.as_ref().is_some_and(|proxy| proxy.serves(name)) {
            // Often only the proxy can resolve; the connection will tell.
            return Ok(1);
        }
        self.addresses(name, 0, named).await.map(|addresses| addresses.len())
    }

    /// The allowed addresses of a name, or why there are none.
    async fn addresses(
        &self,
        host: &str,
        port: u16,
        named: bool,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|e| Refusal::new(RefusalKind::Nxdomain, format!("{host}: {e}")))?
            .take(ADDRESSES_MAX)
            .collect();
        let mut refusal = Refusal::new(RefusalKind::Nxdomain, format!("{host} has no address"));
        let mut allowed = Vec::new();
        for address in found {
            match self.policy.check_address(address.ip(), named) {
                Ok(()) => allowed.push(address),
                Err(why) => refusal = why,
            }
        }
        if allowed.is_empty() { Err(refusal) } else { Ok(allowed) }
    }

    async fn connect(&self, host: &str, port: u16) -> Result<(TcpStream, Option<IpAddr>), Refusal> {
        let named = self.policy.check_name(host, Some(port))?;
        if let Some(proxy) = self.proxy.as_ref().filter(|proxy| proxy.serves(host)) {
            // An address given as such can be checked even here.
            if let Ok(address) = host.parse() {
                self.policy.check_address(address, named)?;
            }
            let slow = |_| Refusal::new(RefusalKind::Timeout, "the proxy does not answer");
            return timeout(CONNECT_DEADLINE, proxy.connect(host, port))
                .await
                .map_err(slow)?
                .map(|stream| (stream, None));
        }
        let mut refusal = Refusal::new(RefusalKind::Unreachable, "no address");
        for address in self.addresses(host, port, named).await? {
            match timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Small writes of protocols must not wait for more; it is
                    // only slower where the option is refused.
                    let _ = stream.set_nodelay(true);
                    return Ok((stream, Some(address.ip())));
                }
                Ok(Err(error)) => {
                    let kind = match error.kind() {
                        io::ErrorKind::ConnectionRefused => RefusalKind::Refused,
                        _ => RefusalKind::Unreachable,
                    };
                    refusal = Refusal::new(kind, format!("{host}:{port} ({address}): {error}"));
                }
                Err(_) => {
                    let message = format!("{host}:{port} ({address}) does not answer");
                    refusal = Refusal::new(RefusalKind::Timeout, message);
                }
            }
        }
        Err(refusal)
    }

    async fn serve_connection(
        &self,
        mut guest: UnixStream,
        host: &str,
        port: u16,
    ) -> io::Result<()> {
        let started = Instant::now();
        let mut record = Record {
            host: host.chars().take(255).collect(),
            port,
            address: None,
            sent: 0,
            received: 0,
            elapsed: Duration::ZERO,
            refused: None,
        };
        let outcome = match self.connect(host, port).await {
            Ok((server, address)) => {
                record.address = address;
                let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
                let mut outcome = protocol::write(&mut guest, &Reply::ok(None)).await;
                if outcome.is_ok() {
                    outcome = copy_both(guest, server, &sent, &received).await;
                }
                record.sent = sent.into_inner();
                record.received = received.into_inner();
                outcome
            }
            Err(refusal) => {
                let reply = Reply::refused(&refusal);
                record.refused = Some(refusal.message);
                protocol::write(&mut guest, &reply).await
            }
        };
        record.elapsed = started.elapsed();
        (self.on_record)(&record);
        outcome
    }
}

/// Copies both ways; the end of one direction is passed on and does not end the
/// other, an error ends both.
async fn copy_both(
    guest: UnixStream,
    server: TcpStream,
    sent: &AtomicU64,
    received: &AtomicU64,
) -> io::Result<()> {
    let (guest_read, guest_write) = guest.into_split();
    let (server_read, server_write) = server.into_split();
    let up = copy(guest_read, server_write, sent);
    let down = copy(server_read, guest_write, received);
    futures::future::try_join(up, down).await.map(drop)
}

async fn copy<R, W>(mut from: R, mut to: W, count: &AtomicU64) -> io::Result<()>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..bytes]).await?;
        count.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::net::TcpListener;

    use super::*;

    type Records = Arc<Mutex<Vec<Record>>>;

    fn egress(hosts: &[&str], private: bool) -> (Arc<Egress>, Records) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let records = Records::default();
        let kept = Arc::clone(&records);
        let on_record: OnRecord = Arc::new(move |record| kept.lock().unwrap().push(record.clone()));
        let policy = Policy::new(&hosts, private).unwrap();
        (Arc::new(Egress::with_proxy(policy, on_record, None)), records)
    }

    async fn ask(egress: &Arc<Egress>, request: Request) -> (UnixStream, Reply) {
        let (mut guest, host) = UnixStream::pair().unwrap();
        let serving = Arc::clone(egress);
        tokio::spawn(async move { serving.serve(host).await });
        protocol::write(&mut guest, &request).await.unwrap();
        let reply = protocol::read(&mut guest).await.unwrap();
        (guest, reply)
    }

    fn connect_to(host: &str, port: u16) -> Request {
        Request {
            v: VERSION,
            op: Operation::Connect,
            host: Some(host.into()),
            port: Some(port),
            name: None,
        }
    }

    #[tokio::test]
    async fn bytes_flow_and_each_direction_ends_by_itself() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let (egress, records) = egress(&["127.0.0.1"], false);
        let (mut guest, reply) = ask(&egress, connect_to("127.0.0.1", port)).await;
        assert!(reply.ok);
        let (mut peer, _) = server.accept().await.unwrap();
        guest.write_all(b"request").await.unwrap();
        guest.shutdown().await.unwrap();
        let mut seen = Vec::new();
        peer.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"request");
        // The guest has ended its direction; the answer still arrives.
        peer.write_all(b"a longer answer").await.unwrap();
        drop(peer);
        let mut answer = Vec::new();
        guest.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"a longer answer");
        let records = records.lock().unwrap();
        assert_eq!((records[0].sent, records[0].received), (7, 15));
        assert_eq!(records[0].refused, None);
    }

    #[tokio::test]
    async fn refusals_say_why() {
        let (open, records) = egress(&[], false);
        let (_, reply) = ask(&open, connect_to("127.0.0.1", 22)).await;
        assert_eq!(reply.kind, Some(RefusalKind::Policy));
        assert!(records.lock().unwrap()[0].refused.as_ref().unwrap().contains("loopback"));
        let (_, reply) = ask(&open, connect_to("localhost", 22)).await;
        assert_eq!(reply.kind, Some(RefusalKind::Policy), "a name is checked by its addresses");
        let (narrow, _) = egress(&["deb.example.org"], false);
        let (_, reply) = ask(&narrow, connect_to("evil.example", 80)).await;
        assert_eq!(reply.kind, Some(RefusalKind::Policy));
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let (private, _) = egress(&[], true);
        let (_, reply) = ask(&private, connect_to("127.0.0.1", closed)).await;
        assert_eq!(reply.kind, Some(RefusalKind::Refused));
        let resolve = |name: &str| Request {
            v: VERSION,
            op: Operation::Resolve,
            host: None,
            port: None,
            name: Some(name.into()),
        };
        let (_, reply) = ask(&private, resolve("localhost")).await;
        assert!(reply.ok && reply.addrs.unwrap() > 0);
        let (_, reply) = ask(&private, resolve("no-such-name.invalid")).await;
        assert_eq!(reply.kind, Some(RefusalKind::Nxdomain));
    }
}
