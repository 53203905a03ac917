//! Tests with the host's own addresses, in a network namespace that has some.

use std::process::Command;

use reach::HostNetwork;
use tokio::net::TcpListener;
use wire::egress::RefusalKind;

use super::common::{With, connect};

/// Set in the environment of a test that runs in the namespace.
const INSIDE: &str = "EGRESS_TEST_IN_NAMESPACE";

/// Configures an address of an interface, and one that is local by a route only.
const SET_UP: &str = "ip link set lo up && ip addr add 203.0.113.77/28 dev lo && \
                      ip route add local 203.0.113.200/32 dev lo && exec \"$@\"";

#[tokio::test]
async fn the_hosts_own_public_addresses_are_the_host() {
    if std::env::var_os(INSIDE).is_none() {
        return run_in_namespace("own_host::the_hosts_own_public_addresses_are_the_host");
    }
    let server = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let read = HostNetwork::read().unwrap();
    let network = With { host: read.clone(), ..With::default() }.network();
    for host in ["203.0.113.77", "own.example", "203.0.113.200"] {
        let (kind, message) = network.refusal(host, port).await;
        assert_eq!(kind, RefusalKind::Policy, "{host}: {message}");
        assert!(message.contains("an address of this host"), "{message}");
    }
    // Other hosts on the link belong to the user's network.
    let (_, message) = network.refusal("203.0.113.66", port).await;
    assert!(message.contains("a private address"), "{message}");
    // Listed by the user, they are allowed.
    let allow = ["203.0.113.77", "203.0.113.200", "own.example=203.0.113.77"];
    let network = With { allow: &allow, host: read, ..With::default() }.network();
    for host in ["203.0.113.77", "own.example", "203.0.113.200"] {
        assert!(network.ask(connect(host, port)).await.0.ok, "{host}");
    }
}

/// Runs a test of this program in a new network namespace.
fn run_in_namespace(test: &str) {
    let unshare = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-rn", "sh", "-c"]).args(words);
        command.env(INSIDE, "1").output()
    };
    match unshare(&["ip link set lo up"]) {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            return println!("skipped: no network namespace can be set up: {}", why.trim());
        }
        Err(error) => return println!("skipped: `unshare` does not run: {error}"),
    }
    let program = std::env::current_exe().unwrap();
    let output =
        unshare(&[SET_UP, "sh", program.to_str().unwrap(), test, "--exact", "--nocapture"]);
    let output = output.unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "{out}{err}");
}
