//! The whole path over loopback, with explicit allowance.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use egress::{
    Egress, Limits, Lookup, OnRecord, Options, Policy, Record, Resolve, Upstream,
    protocol::{RefusalKind, Reply, Request, read_reply, write_frame},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixStream},
};

/// Names for the tests, one of which changes its address each time.
#[derive(Default)]
struct Names(Mutex<u32>);

impl Resolve for Names {
    fn lookup<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        let local = |list: &[&str]| Ok(list.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect());
        let found = match name {
            "local.example" => local(&["127.0.0.2", "127.0.0.1"]),
            "rebinding.example" => {
                let mut asked = self.0.lock().unwrap();
                *asked += 1;
                if *asked == 1 { local(&["203.0.113.1"]) } else { local(&["127.0.0.1"]) }
            }
            "mixed.example" => local(&["10.0.0.1", "203.0.113.1"]),
            "broken.example" => Err(io::Error::other("Temporary failure in name resolution")),
            _ => Ok(Vec::new()),
        };
        Box::pin(async { found })
    }
}

type Log = Arc<Mutex<Vec<Record>>>;

struct Network {
    egress: Arc<Egress>,
    log: Log,
}

fn network(allow: &[&str], limits: Limits, upstream: Option<Upstream>) -> Network {
    let log = Log::default();
    let kept = Arc::clone(&log);
    let on_record: OnRecord = Arc::new(move |record| kept.lock().unwrap().push(record.clone()));
    let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
    let policy = Policy::new(&allow, false).unwrap();
    let options = Options { limits, upstream, resolver: Arc::new(Names::default()) };
    Network { egress: Arc::new(Egress::with_options(policy, on_record, options)), log }
}

impl Network {
    /// A stream as the guest's agent has it.
    fn stream(&self) -> (UnixStream, tokio::task::JoinHandle<()>) {
        let (guest, host) = UnixStream::pair().unwrap();
        let egress = Arc::clone(&self.egress);
        (guest, tokio::spawn(async move { egress.serve(host).await }))
    }

    async fn ask(&self, request: Request) -> (Reply, UnixStream, tokio::task::JoinHandle<()>) {
        let (mut guest, task) = self.stream();
        write_frame(&mut guest, &request).await.unwrap();
        let reply = read_reply(&mut guest).await.unwrap();
        (reply, guest, task)
    }

    async fn refusal(&self, host: &str, port: u16) -> (RefusalKind, String) {
        let request = Request::Connect { v: 1, host: host.into(), port };
        let (reply, _, _) = self.ask(request).await;
        assert!(!reply.ok);
        (reply.kind.unwrap(), reply.message.unwrap())
    }
}

fn connect(host: &str, port: u16) -> Request {
    Request::Connect { v: 1, host: host.into(), port }
}

/// Answers each connection with what it said, reversed, after it has ended its
/// side.
async fn reverser() -> SocketAddr {
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

#[tokio::test]
async fn a_connection_by_name_carries_bytes_and_half_close() {
    let server = reverser().await;
    let network = network(&["local.example"], Limits::default(), None);
    let (reply, mut guest, task) = network.ask(connect("Local.Example.", server.port())).await;
    assert_eq!(reply, Reply::ok(None));
    let said: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let (mut from, mut to) = guest.split();
    let send = async {
        to.write_all(&said).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (_, count) = tokio::join!(send, from.read_to_end(&mut heard));
    assert_eq!(count.unwrap(), said.len());
    heard.reverse();
    assert!(heard == said);
    task.await.unwrap();
    let log = network.log.lock().unwrap();
    let record = &log[0];
    assert_eq!((record.sent, record.received), (1_200_000, 1_200_000));
    assert_eq!((record.host.as_str(), record.port), ("Local.Example.", server.port()));
    assert_eq!(record.address, Some(server.ip()));
    assert_eq!((&record.refused, &record.broken), (&None, &None));
    let totals = network.egress.totals();
    assert_eq!((totals.connected, totals.refused, totals.sent), (1, 0, 1_200_000));
}

#[tokio::test]
async fn what_the_policy_refuses_is_never_connected_to() {
    let server = reverser().await;
    let open = network(&[], Limits::default(), None);
    for host in
        ["127.0.0.1", "localhost-alias", "local.example", "::1", "169.254.169.254", "127.1", "0"]
    {
        let (kind, message) = open.refusal(host, server.port()).await;
        let expected =
            if host == "localhost-alias" { RefusalKind::Nxdomain } else { RefusalKind::Policy };
        assert_eq!(kind, expected, "{host}: {message}");
    }
    let narrow = network(&["local.example:1"], Limits::default(), None);
    let (kind, message) = narrow.refusal("local.example", server.port()).await;
    assert_eq!(kind, RefusalKind::Policy);
    assert!(message.contains("is not among the hosts"), "{message}");
    assert_eq!(narrow.egress.totals().refused, 1);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_each_time() {
    let network = network(&[], Limits::default(), None);
    let resolve = || Request::Resolve { v: 1, name: "rebinding.example".into() };
    assert_eq!(network.ask(resolve()).await.0, Reply::ok(Some(1)));
    let (kind, message) = network.refusal("rebinding.example", 80).await;
    assert_eq!(kind, RefusalKind::Policy);
    assert!(message.contains("resolves to 127.0.0.1, which is a loopback address"), "{message}");
}

#[tokio::test]
async fn resolving_says_how_many_addresses_may_be_reached() {
    let network = network(&[], Limits::default(), None);
    let ask = |name: &str| network.ask(Request::Resolve { v: 1, name: name.into() });
    assert_eq!(ask("mixed.example").await.0, Reply::ok(Some(1)));
    assert_eq!(ask("203.0.113.8").await.0, Reply::ok(Some(1)));
    assert_eq!(ask("none.example").await.0.kind, Some(RefusalKind::Nxdomain));
    assert_eq!(ask("broken.example").await.0.kind, Some(RefusalKind::Timeout));
    assert_eq!(ask("local.example").await.0.kind, Some(RefusalKind::Policy));
    assert_eq!(ask("no name").await.0.kind, Some(RefusalKind::Policy));
}

#[tokio::test]
async fn a_closed_port_is_refused_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let network = network(&["127.0.0.1"], Limits::default(), None);
    assert_eq!(network.refusal("127.0.0.1", port).await.0, RefusalKind::Refused);
}

#[tokio::test]
async fn streams_beyond_the_limit_wait_and_silent_ones_end() {
    let server = reverser().await;
    let limits = Limits { streams: 1, request: Duration::from_millis(50), ..Limits::default() };
    let network = network(&["local.example"], limits, None);
    let (_, one, task) = network.ask(connect("local.example", server.port())).await;
    let (mut silent, _) = network.stream();
    let early = tokio::time::timeout(Duration::from_millis(200), read_reply(&mut silent)).await;
    assert!(early.is_err(), "the second stream was not to be served yet");
    drop(one);
    task.await.unwrap();
    let reply = read_reply(&mut silent).await.unwrap();
    assert_eq!(reply.kind, Some(RefusalKind::Timeout));
    assert!(reply.message.unwrap().starts_with("no request within"));
}

#[tokio::test]
async fn garbage_gets_a_reply_and_a_record() {
    let network = network(&[], Limits::default(), None);
    let (mut guest, task) = network.stream();
    guest.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let reply = read_reply(&mut guest).await.unwrap();
    assert_eq!(reply.kind, Some(RefusalKind::Policy));
    task.await.unwrap();
    let (guest, task) = network.stream();
    drop(guest);
    task.await.unwrap();
    assert!(network.log.lock().unwrap().is_empty(), "these were no requests");
}

/// A proxy that knows one name and wants a password.
async fn proxy(target: SocketAddr) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heads);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            log.lock().unwrap().push(head.clone());
            if !head.starts_with("CONNECT behind.example:80 ") {
                client.write_all(b"HTTP/1.1 403 No\r\n\r\n").await.unwrap();
                continue;
            }
            let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Yes\r\nX: y\r\n\r\n").await.unwrap();
            tokio::io::copy_bidirectional(&mut client, &mut server).await.unwrap();
        }
    });
    (port, heads)
}

#[tokio::test]
async fn the_users_proxy_is_used_for_all_but_the_exceptions() {
    let server = reverser().await;
    let (port, heads) = proxy(server).await;
    let upstream = Upstream::from_environment(|name| match name {
        "https_proxy" => Some(format!("http://me:secret@127.0.0.1:{port}")),
        "no_proxy" => Some("local.example".to_owned()),
        _ => None,
    });
    let allow = ["behind.example", "local.example", "other.example"];
    let network = network(&allow, Limits::default(), upstream.unwrap());
    let (reply, mut guest, task) = network.ask(connect("behind.example", 80)).await;
    assert_eq!(reply, Reply::ok(None));
    guest.write_all(b"abc").await.unwrap();
    guest.shutdown().await.unwrap();
    let mut heard = String::new();
    guest.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "cba");
    // Not HTTP, although on its port.
    task.await.unwrap();
    assert_eq!(network.log.lock().unwrap()[0].http, []);
    let head = heads.lock().unwrap()[0].clone();
    assert!(head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{head}");

    let (kind, message) = network.refusal("other.example", 443).await;
    assert_eq!(
        (kind, message.as_str()),
        (RefusalKind::Refused, "the proxy answered 403 for other.example:443")
    );
    // Refused before the proxy is asked.
    assert_eq!(network.refusal("third.example", 443).await.0, RefusalKind::Policy);
    assert_eq!(network.refusal("127.0.0.1", 443).await.0, RefusalKind::Policy);
    let (reply, _, _) = network.ask(connect("local.example", server.port())).await;
    assert_eq!(reply, Reply::ok(None));
    assert_eq!(heads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn plain_http_is_recorded_with_digests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 19];
        stream.read_exact(&mut head).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        stream.write_all(answer).await.unwrap();
    });
    // Port 80 is reached through a proxy, for a test cannot listen on it.
    let (port, _) = proxy(target).await;
    let url = format!("http://127.0.0.1:{port}");
    let upstream = Upstream::from_environment(|n| (n == "http_proxy").then(|| url.clone()));
    let network = network(&["behind.example"], Limits::default(), upstream.unwrap());
    let (_, mut guest, task) = network.ask(connect("behind.example", 80)).await;
    guest.write_all(b"GET /f HTTP/1.1\r\n\r\n").await.unwrap();
    guest.shutdown().await.unwrap();
    let mut heard = String::new();
    guest.read_to_string(&mut heard).await.unwrap();
    assert!(heard.ends_with("\r\n\r\nabc"));
    task.await.unwrap();
    let log = network.log.lock().unwrap();
    let exchange = &log[0].http[0];
    assert_eq!((exchange.path.as_str(), exchange.status), ("/f", Some(200)));
    assert!(exchange.sha256.as_ref().unwrap().starts_with("ba7816bf8f01cfea"));
}
