//! Limits on the host's resources that a guest can occupy.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use egress::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};
use wire::egress::{Message, RefusalKind, Reply};

use super::{
    common::{Network, With, connect, reverser},
    proxy::proxy_to,
};

const ALLOW: With<'_> = With {
    allow: &["local.example=127.0.0.1"],
    private: false,
    proxy_resolves: false,
    limits: Limits {
        streams: 2,
        waiting: 3,
        request: Duration::from_secs(30),
        resolve: Duration::from_secs(20),
        connect: Duration::from_secs(30),
        idle: Duration::from_secs(900),
        observed_bytes: 1 << 20,
    },
    upstream: None,
    host: reach::HostNetwork::NONE,
};

/// Creates a service whose two slots are occupied by idle connections.
async fn occupied(port: u16) -> (Network, Vec<UnixStream>) {
    let network = ALLOW.network();
    let mut holders = Vec::new();
    for _ in 0..2 {
        let (reply, guest, _) = network.ask(connect("local.example", port)).await;
        assert!(reply.ok);
        holders.push(guest);
    }
    (network, holders)
}

#[tokio::test]
async fn streams_that_the_guest_has_closed_do_not_pile_up() {
    let server = reverser().await;
    let (network, _holders) = occupied(server.port()).await;
    let running = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..500 {
        let (mut guest, task) = network.stream();
        running.fetch_add(1, Ordering::SeqCst);
        let running = Arc::clone(&running);
        tasks.push(tokio::spawn(async move {
            task.await.unwrap();
            running.fetch_sub(1, Ordering::SeqCst);
        }));
        // With and without a request, the guest then drops the stream.
        connect("local.example", 1).write_async(&mut guest).await.unwrap();
        drop(guest);
    }
    // Only the guest's close can end these: the slots stay occupied.
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(running.load(Ordering::SeqCst), 0);
    assert!(network.egress.has_room());
}

#[tokio::test]
async fn streams_beyond_the_limit_wait_and_more_are_refused_at_once() {
    let server = reverser().await;
    let (network, mut holders) = occupied(server.port()).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let (mut guest, task) = network.stream();
        let request = connect("local.example", server.port());
        request.write_async(&mut guest).await.unwrap();
        waiting.push((guest, task));
    }
    // The tasks have started once there is no room left.
    while network.egress.has_room() {
        tokio::task::yield_now().await;
    }
    let (kind, message) = network.refusal("local.example", server.port()).await;
    assert_eq!(kind, RefusalKind::Timeout);
    assert_eq!(message, "3 streams wait already");
    // A slot that becomes free is given to a waiting stream.
    holders.pop();
    let (first, _) = &mut waiting[0];
    assert!(Reply::read_async(first).await.unwrap().ok);
}

#[tokio::test]
async fn a_stream_without_a_request_ends() {
    let limits = Limits { request: Duration::from_secs(1), ..Limits::default() };
    let network = With { limits, ..With::default() }.network();
    let (mut silent, task) = network.stream();
    let reply = Reply::read_async(&mut silent).await.unwrap();
    assert_eq!(reply.kind, Some(RefusalKind::Timeout));
    assert_eq!(reply.message.unwrap(), "no request within 1 s");
    task.await.unwrap();
}

#[tokio::test]
async fn a_guest_that_gives_up_ends_the_attempt_to_connect() {
    // A proxy that accepts connections and never answers.
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = proxy.local_addr().unwrap().port();
    let network =
        With { upstream: proxy_to(port, ""), proxy_resolves: true, ..With::default() }.network();
    let (mut guest, task) = network.stream();
    connect("a.example", 443).write_async(&mut guest).await.unwrap();
    let (mut attempt, _): (TcpStream, _) = proxy.accept().await.unwrap();
    let mut head = [0; 64];
    assert!(attempt.read(&mut head).await.unwrap() > 0);
    drop(guest);
    task.await.unwrap();
    assert!(network.log.lock().unwrap().is_empty(), "nobody was refused");
}

#[tokio::test]
async fn what_is_kept_of_one_connection_is_small() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = server.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut sink = vec![0; 1 << 16];
        while stream.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    });
    // Port 80 is reached through a proxy, because a test cannot listen on it.
    let (port, _) = super::proxy::proxy(target).await;
    let network = With {
        allow: &["behind.example"],
        upstream: proxy_to(port, ""),
        proxy_resolves: true,
        ..With::default()
    }
    .network();
    let (reply, mut guest, task) = network.ask(connect("behind.example", 80)).await;
    assert!(reply.ok);
    let request = format!("{} /{} HTTP/1.1\r\n\r\n", "A".repeat(32), "\u{1}".repeat(1_000));
    for _ in 0..1000 {
        guest.write_all(request.as_bytes()).await.unwrap();
    }
    drop(guest);
    task.await.unwrap();
    let log = network.log.lock().unwrap();
    let kept: usize = log[0].http.iter().map(|e| e.method.len() + e.path.len()).sum();
    assert!(kept < 1 << 20, "one connection leaves {} KiB", kept >> 10);
    assert_eq!(log[0].http.len() as u64 + log[0].http_more, 1000);
}
