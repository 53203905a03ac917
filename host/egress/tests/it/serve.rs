//! Tests of requests, the policy, and the relayed bytes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use wire::egress::{Message, RefusalKind, Reply};

use super::common::{connect, network, resolve, reverser};

#[tokio::test]
async fn a_connection_by_name_carries_bytes_and_half_close() {
    let server = reverser().await;
    let network = network(&["local.example=127.0.0.2", "local.example=127.0.0.1"]);
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
    let open = network(&[]);
    for host in
        ["127.0.0.1", "none.example", "loopback.example", "::1", "169.254.169.254", "127.1", "0"]
    {
        let (kind, message) = open.refusal(host, server.port()).await;
        let expected =
            if host == "none.example" { RefusalKind::Nxdomain } else { RefusalKind::Policy };
        assert_eq!(kind, expected, "{host}: {message}");
    }
    let narrow = network(&["loopback.example:1"]);
    let (kind, message) = narrow.refusal("loopback.example", server.port()).await;
    assert_eq!(kind, RefusalKind::Policy);
    assert!(message.contains("is not among the hosts"), "{message}");
    assert_eq!(narrow.egress.totals().refused, 1);
}

#[tokio::test]
async fn an_allowed_name_does_not_open_what_its_dns_owner_chooses() {
    let server = reverser().await;
    let network = network(&["loopback.example", "private.example"]);
    let (kind, message) = network.refusal("loopback.example", server.port()).await;
    assert_eq!(kind, RefusalKind::Policy);
    assert!(message.ends_with("--allow-host loopback.example=127.0.0.1 allows it"), "{message}");
    let (kind, message) = network.refusal("private.example", 80).await;
    assert_eq!(kind, RefusalKind::Policy);
    assert!(message.contains("--allow-private allows it"), "{message}");
}

#[tokio::test]
async fn a_closed_network_refuses_at_once_and_ends_what_is_open() {
    let server = reverser().await;
    let network = network(&["local.example=127.0.0.1"]);
    let (reply, mut guest, task) = network.ask(connect("local.example", server.port())).await;
    assert!(reply.ok);
    network.egress.close("the stage `a` has no network");
    // The connection ends although its server is still waiting.
    assert_eq!(guest.read(&mut [0; 1]).await.unwrap(), 0);
    task.await.unwrap();
    let refused = network.refusal("local.example", server.port()).await;
    assert_eq!(refused, (RefusalKind::Policy, "the stage `a` has no network".to_owned()));
    let (reply, ..) = network.ask(resolve("public.example")).await;
    assert_eq!(reply.kind, Some(RefusalKind::Policy));
    network.egress.open();
    assert!(network.ask(connect("local.example", server.port())).await.0.ok);
    let log = network.log.lock().unwrap();
    assert_eq!(log[0].broken.as_deref(), Some("the stage `a` has no network"));
    // A failed lookup is recorded too.
    assert_eq!((log[2].host.as_str(), log[2].port), ("public.example", 0));
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_each_time() {
    let network = network(&[]);
    assert_eq!(network.ask(resolve("rebinding.example")).await.0, Reply::ok(Some(1)));
    let (kind, message) = network.refusal("rebinding.example", 80).await;
    assert_eq!(kind, RefusalKind::Policy);
    assert!(message.contains("resolves to 127.0.0.1, which is a loopback address"), "{message}");
}

#[tokio::test]
async fn resolving_says_how_many_addresses_may_be_reached() {
    let network = network(&[]);
    let ask = |name: &str| network.ask(resolve(name));
    assert_eq!(ask("mixed.example").await.0, Reply::ok(Some(1)));
    assert_eq!(ask("203.0.113.8").await.0, Reply::ok(Some(1)));
    assert_eq!(ask("none.example").await.0.kind, Some(RefusalKind::Nxdomain));
    assert_eq!(ask("broken.example").await.0.kind, Some(RefusalKind::Timeout));
    assert_eq!(ask("loopback.example").await.0.kind, Some(RefusalKind::Policy));
    assert_eq!(ask("no name").await.0.kind, Some(RefusalKind::Policy));
}

#[tokio::test]
async fn a_closed_port_is_refused_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let network = network(&["127.0.0.1"]);
    assert_eq!(network.refusal("127.0.0.1", port).await.0, RefusalKind::Refused);
}

#[tokio::test]
async fn garbage_gets_a_reply_and_a_record() {
    let network = network(&[]);
    let (mut guest, task) = network.stream();
    guest.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let reply = Reply::read_async(&mut guest).await.unwrap();
    assert_eq!(reply.kind, Some(RefusalKind::Policy));
    task.await.unwrap();
    let (guest, task) = network.stream();
    drop(guest);
    task.await.unwrap();
    assert!(network.log.lock().unwrap().is_empty(), "these were no requests");
}
