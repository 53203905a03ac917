//! Tests of the user's proxy: which hosts it is asked for, and which it never is.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use egress::Upstream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wire::egress::{RefusalKind, Reply};

use super::common::{With, connect, resolve, reverser};

/// The request heads that a proxy has received.
pub type Heads = Arc<Mutex<Vec<String>>>;

/// The proxy at a port of this host, with hosts that bypass it.
pub fn proxy_to(port: u16, no_proxy: &str) -> Option<Upstream> {
    Upstream::from_environment(|name| match name {
        "https_proxy" => Some(format!("http://me:secret@127.0.0.1:{port}").into()),
        "no_proxy" => Some(no_proxy.into()),
        _ => None,
    })
    .unwrap()
}

/// A proxy that connects to `target` for all requests, except for `other.example`, which it
/// refuses, and for IPv6, which it lacks.
pub async fn proxy(target: SocketAddr) -> (u16, Heads) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Heads::default();
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
            let answer: &[u8] = match () {
                () if head.starts_with("CONNECT other.example:") => b"HTTP/1.1 403 No\r\n\r\n",
                () if head.starts_with("CONNECT 203.0.113.1:") => b"HTTP/1.1 403 No\r\n\r\n",
                () if head.starts_with("CONNECT [") => b"HTTP/1.1 503 No IPv6\r\n\r\n",
                () => b"HTTP/1.1 200 Yes\r\nX: y\r\n\r\n",
            };
            client.write_all(answer).await.unwrap();
            if answer.starts_with(b"HTTP/1.1 200") {
                tokio::spawn(async move {
                    let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        }
    });
    (port, heads)
}

fn asked(heads: &Heads) -> Vec<String> {
    let words = |head: &String| head.split(' ').nth(1).unwrap().to_owned();
    heads.lock().unwrap().iter().map(words).collect()
}

#[tokio::test]
async fn the_proxy_is_asked_for_addresses_that_were_checked() {
    let server = reverser().await;
    let (port, heads) = proxy(server).await;
    let allow = ["public.example", "both.example", "local.example=127.0.0.1", "203.0.113.9"];
    let network = With { allow: &allow, upstream: proxy_to(port, ""), ..With::default() }.network();
    let (reply, mut guest, task) = network.ask(connect("public.example", 80)).await;
    assert_eq!(reply, Reply::ok(None));
    guest.write_all(b"abc").await.unwrap();
    guest.shutdown().await.unwrap();
    let mut heard = String::new();
    guest.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "cba");
    // Data that is not HTTP, although on its port.
    task.await.unwrap();
    assert_eq!(network.log.lock().unwrap()[0].http, []);
    let head = heads.lock().unwrap()[0].clone();
    assert!(head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"), "{head}");
    assert!(network.ask(connect("203.0.113.9", 443)).await.0.ok);
    // The address family that the proxy lacks is skipped.
    assert!(network.ask(connect("both.example", 443)).await.0.ok);
    // Refused before the proxy is asked.
    assert_eq!(network.refusal("third.example", 443).await.0, RefusalKind::Policy);
    assert_eq!(network.refusal("127.0.0.1", 443).await.0, RefusalKind::Policy);
    // Hosts on this machine are not reachable through the proxy.
    assert!(network.ask(connect("local.example", server.port())).await.0.ok);
    let expected = ["203.0.113.5:80", "203.0.113.9:443", "[2001:db8::5]:443", "203.0.113.5:443"];
    assert_eq!(asked(&heads), expected);
}

#[tokio::test]
async fn the_proxy_is_never_asked_for_the_hosts_own_services() {
    let server = reverser().await;
    let (port, heads) = proxy(server).await;
    for proxy_resolves in [false, true] {
        let network =
            With { upstream: proxy_to(port, ""), proxy_resolves, ..With::default() }.network();
        for (host, port) in [
            ("localhost", 22),
            ("metadata.google.internal", 80),
            ("a.internal", 80),
            ("intranet", 443),
            ("127.0.0.1", 22),
            ("10.0.0.1", 22),
            ("168.63.129.16", 80),
        ] {
            assert_eq!(network.refusal(host, port).await.0, RefusalKind::Policy, "{host}");
            let (reply, ..) = network.ask(resolve(host)).await;
            assert_eq!(reply.kind, Some(RefusalKind::Policy), "{host}");
        }
    }
    let network = With { upstream: proxy_to(port, ""), ..With::default() }.network();
    for host in ["loopback.example", "private.example"] {
        assert_eq!(network.refusal(host, 443).await.0, RefusalKind::Policy, "{host}");
    }
    // Not even if it is listed: for the proxy, the name means its own machine.
    let network = With {
        allow: &["localhost"],
        upstream: proxy_to(port, ""),
        proxy_resolves: true,
        ..With::default()
    }
    .network();
    let (_, message) = network.refusal("localhost", 22).await;
    assert!(message.ends_with("--allow-host localhost=127.0.0.1 allows it"), "{message}");
    assert_eq!(asked(&heads), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_that_changes_its_address_reaches_only_what_was_checked() {
    let (port, heads) = proxy(reverser().await).await;
    let network = With { upstream: proxy_to(port, ""), ..With::default() }.network();
    // The resolver's second answer, which the proxy would get, is loopback.
    let (kind, message) = network.refusal("rebinding.example", 443).await;
    assert_eq!(kind, RefusalKind::Refused);
    assert_eq!(
        message,
        "the proxy answered 403 for 203.0.113.1:443 (rebinding.example); if the proxy decides by \
         name, --proxy-resolves gives it the name"
    );
    assert_eq!(asked(&heads), ["203.0.113.1:443"]);
    assert_eq!(network.refusal("rebinding.example", 443).await.0, RefusalKind::Policy);
}

#[tokio::test]
async fn names_that_this_host_cannot_resolve_need_the_users_word() {
    let (port, heads) = proxy(reverser().await).await;
    let network = With { upstream: proxy_to(port, ""), ..With::default() }.network();
    for name in ["behind.example", "broken.example"] {
        let (kind, message) = network.refusal(name, 443).await;
        assert_eq!(kind, RefusalKind::Policy);
        assert!(message.contains("--proxy-resolves"), "{message}");
        assert!(message.contains(&format!("127.0.0.1:{port}")), "{message}");
        // The guest does not get the reply that the name does not exist, and the user gets the
        // reason.
        let (reply, ..) = network.ask(resolve(name)).await;
        assert_eq!(reply.kind, Some(RefusalKind::Policy));
    }
    assert_eq!(asked(&heads), Vec::<String>::new());
    let network =
        With { upstream: proxy_to(port, ""), proxy_resolves: true, ..With::default() }.network();
    assert_eq!(network.ask(resolve("behind.example")).await.0, Reply::ok(Some(1)));
    assert!(network.ask(connect("behind.example", 443)).await.0.ok);
    let (kind, message) = network.refusal("other.example", 443).await;
    assert_eq!(
        (kind, message.as_str()),
        (RefusalKind::Refused, "the proxy answered 403 for other.example:443")
    );
    assert_eq!(asked(&heads), ["behind.example:443", "other.example:443"]);
}

#[tokio::test]
async fn hosts_of_no_proxy_are_reached_directly_and_checked() {
    let server = reverser().await;
    let (port, heads) = proxy(server).await;
    let network = With {
        allow: &["loopback.example", "near.example=127.0.0.1"],
        upstream: proxy_to(port, "example"),
        proxy_resolves: true,
        ..With::default()
    }
    .network();
    assert_eq!(network.refusal("loopback.example", server.port()).await.0, RefusalKind::Policy);
    assert!(network.ask(connect("near.example", server.port())).await.0.ok);
    assert_eq!(asked(&heads), Vec::<String>::new());
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
    // Port 80 is reached through a proxy, because a test cannot listen on it.
    let (port, _) = proxy(target).await;
    let network = With { upstream: proxy_to(port, ""), ..With::default() }.network();
    let (_, mut guest, task) = network.ask(connect("public.example", 80)).await;
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
