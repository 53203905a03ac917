//! A service with a fake resolver, its log, and servers to reach.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use egress::{Egress, Limits, Lookup, OnRecord, Options, Policy, Record, Resolve, Upstream};
use reach::HostNetwork;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    task::JoinHandle,
};
use wire::egress::{Message, RefusalKind, Reply, Request};

/// A fake resolver, with a name whose address changes on each lookup.
#[derive(Default)]
struct Names(Mutex<u32>);

impl Resolve for Names {
    fn lookup<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        let local = |list: &[&str]| Ok(list.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect());
        let found = match name {
            "loopback.example" | "localhost" => local(&["127.0.0.1"]),
            "rebinding.example" => {
                let mut asked = self.0.lock().unwrap();
                *asked += 1;
                if *asked == 1 { local(&["203.0.113.1"]) } else { local(&["127.0.0.1"]) }
            }
            "mixed.example" => local(&["10.0.0.1", "203.0.113.1"]),
            "public.example" | "intranet" | "a.internal" => local(&["203.0.113.5"]),
            "both.example" => local(&["2001:db8::5", "203.0.113.5"]),
            "own.example" => local(&["203.0.113.77"]),
            "private.example" => local(&["10.0.0.1"]),
            "broken.example" => Err(io::Error::other("Temporary failure in name resolution")),
            _ => Ok(Vec::new()),
        };
        Box::pin(async { found })
    }
}

type Log = Arc<Mutex<Vec<Record>>>;

/// A service with its records.
pub struct Network {
    pub egress: Arc<Egress>,
    pub log: Log,
}

/// Options of a test's service.
#[derive(Default)]
pub struct With<'a> {
    pub allow: &'a [&'a str],
    pub private: bool,
    pub proxy_resolves: bool,
    pub limits: Limits,
    pub upstream: Option<Upstream>,
    pub host: HostNetwork,
}

impl With<'_> {
    pub fn network(self) -> Network {
        let log = Log::default();
        let kept = Arc::clone(&log);
        let on_record: OnRecord = Arc::new(move |record| kept.lock().unwrap().push(record.clone()));
        let allow: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
        let policy = Policy::new(&allow, self.private).unwrap();
        let host = self.host;
        let options = Options {
            limits: self.limits,
            upstream: self.upstream,
            resolver: Arc::new(Names::default()),
            host_network: Arc::new(move || Ok(host.clone())),
        };
        let policy = policy.with_proxy_resolves(self.proxy_resolves);
        Network { egress: Arc::new(Egress::with_options(policy, on_record, options)), log }
    }
}

/// A service with a list of allowed hosts.
pub fn network(allow: &[&str]) -> Network {
    With { allow, ..With::default() }.network()
}

impl Network {
    /// A stream like that of the guest's agent.
    pub fn stream(&self) -> (UnixStream, JoinHandle<()>) {
        let (guest, host) = UnixStream::pair().unwrap();
        let egress = Arc::clone(&self.egress);
        (guest, tokio::spawn(async move { egress.serve(host).await }))
    }

    pub async fn ask(&self, request: Request) -> (Reply, UnixStream, JoinHandle<()>) {
        let (mut guest, task) = self.stream();
        request.write_async(&mut guest).await.unwrap();
        let reply = Reply::read_async(&mut guest).await.unwrap();
        (reply, guest, task)
    }

    pub async fn refusal(&self, host: &str, port: u16) -> (RefusalKind, String) {
        let (reply, _, _) = self.ask(connect(host, port)).await;
        assert!(!reply.ok, "{host}:{port} is granted");
        (reply.kind.unwrap(), reply.message.unwrap())
    }
}

pub fn connect(host: &str, port: u16) -> Request {
    Request::Connect { v: 1, host: host.into(), port }
}

pub fn resolve(name: &str) -> Request {
    Request::Resolve { v: 1, name: name.into() }
}

/// A server that answers each connection with the reversed data, once the client has closed its
/// direction.
pub async fn reverser() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut said = Vec::new();
                stream.read_to_end(&mut said).await.unwrap();
                said.reverse();
                stream.write_all(&said).await.unwrap();
            });
        }
    });
    address
}
