//! The guest's network: which hosts the user's list allows, and what a stage without network can
//! reach.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use engine::events::Event;
use plan::{Context, Stage};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::{
    harness::{Ground, ground},
    plans::{self, sh, stage},
    program::{stderr, vbuild},
};

/// Sends a greeting on each connection and keeps it open.
async fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"hello\n").await.unwrap();
            held.push(stream);
        }
    });
    address
}

/// A stage whose script can request the greeting from a host name.
fn networked(name: &str, network: bool, port: u16, script: &str) -> Stage {
    let greeting = format!(
        r#"
greeting() {{
    local line=
    # A connection that is refused ends at once; the limit is for one that hangs.
    if ! {{ exec 3<>"/dev/tcp/$1/{port}"; }} 2>/dev/null; then echo none; return; fi
    read -r -t 100 line <&3 2>/dev/null || [ $? -le 128 ] || line=hangs
    exec 3>&-
    echo "${{line:-none}}"
}}
"#
    );
    let steps = vec![sh(name, &format!("{greeting}\n{script}"))];
    Stage { network, ..stage(name, Context::default(), steps) }
}

/// The refusals so far: destination and reason.
fn refusals(ground: &Ground) -> Vec<(String, String)> {
    let refused = |event| match event {
        Event::Connection { host, port, refused: Some(reason), .. } => {
            Some((format!("{host}:{port}"), reason))
        }
        _ => None,
    };
    ground.recorder.events().into_iter().filter_map(refused).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_without_a_network_has_none_and_is_told_at_once() {
    let Some(mut ground) = ground("a_stage_without_a_network_has_none_and_is_told_at_once") else {
        return;
    };
    let port = greeter().await.port();
    ground.settings.network = true;
    ground.settings.allow_hosts = vec!["server.example=127.0.0.1".into()];
    let with = r#"echo "$NAME: $(greeting server.example)""#;
    let without = r#"
getent hosts fresh.example > /dev/null && echo "resolved"
echo "without: $(greeting server.example)"
echo "without: $(greeting 198.51.100.1)""#;
    let plan = plans::plan(vec![
        networked("with", true, port, &with.replace("$NAME", "with")),
        networked("without", false, port, without),
        networked("again", true, port, &with.replace("$NAME", "again")),
    ]);
    vbuild::build(&plan, &ground.settings, &ground.ctx).await.unwrap();
    let expected = ["with: hello", "without: none", "without: none", "again: hello"];
    assert_eq!(ground.recorder.lines(), expected);
    let refused = refusals(&ground);
    let hosts: Vec<&str> = refused.iter().map(|(host, _)| host.as_str()).collect();
    let (named, literal) = (format!("server.example:{port}"), format!("198.51.100.1:{port}"));
    assert_eq!(hosts, ["fresh.example:0", &named, &literal]);
    for (host, reason) in refused {
        assert!(reason.starts_with("the stage `without` has no network; "), "{host}: {reason}");
        assert!(reason.contains("`vbuild plan`"), "{host}: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_opens_only_the_address_in_the_users_words() {
    let Some(mut ground) = ground("a_name_opens_only_the_address_in_the_users_words") else {
        return;
    };
    let port = greeter().await.port();
    ground.settings.network = true;
    ground.settings.allow_hosts = vec!["server.example=127.0.0.1".into()];
    let script = r#"
for name in server.example other.example 127.0.0.1 localhost; do
    echo "$name: $(greeting $name)"
done"#;
    let plan = plans::plan(vec![networked("try", true, port, script)]);
    vbuild::build(&plan, &ground.settings, &ground.ctx).await.unwrap();
    let expected =
        ["server.example: hello", "other.example: none", "127.0.0.1: none", "localhost: none"];
    assert_eq!(ground.recorder.lines(), expected);
    let (host, reason) = refusals(&ground).pop().unwrap();
    assert_eq!(host, "other.example:0");
    assert!(reason.contains("--allow-host"), "{reason}");
}

/// Serves one script to all clients, and counts requests.
fn web(script: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let came = Arc::clone(&count);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            came.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 2048]);
            let length = script.len();
            let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{script}");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (port, count)
}

/// The guest is the card's own boot ROM, iPXE: without a bootable disk it requests an address by
/// DHCP, and then accepts commands.
#[test]
fn a_booted_image_reaches_what_is_allowed_and_nothing_else() {
    let Some(ground) = ground("a_booted_image_reaches_what_is_allowed") else { return };
    if qemu::find(machine::MachineArchitecture::of_host(), None).is_err() {
        println!("skipped a_booted_image_reaches_what_is_allowed: there is no QEMU");
        return;
    }
    std::fs::write(ground.path("empty.raw"), vec![0; 1 << 20]).unwrap();
    let (port, came) = web("#!ipxe\necho it came through\n");
    let chain = |name: &str| format!("chain http://{name}:{port}/script");
    let (allowed, other, gateway) =
        (chain("web.example"), chain("other.example"), chain("10.0.2.2"));
    let allow = format!("web.example:{port}=127.0.0.1");
    let mut boot = vbuild(&ground, &["boot", "empty.raw", "--with-network", "--allow-host"]);
    boot.arg(allow).args(["--timeout", "120"]);
    let conversation = [
        // Ctrl-B.
        ("iPXE command line", "\u{2}"),
        ("iPXE>", "dhcp"),
        (".. ok", &allowed),
        ("it came through", &other),
        // The link in iPXE's error messages.
        ("http://ipxe.org/", &gateway),
        ("http://ipxe.org/", ""),
    ];
    for (expected, answer) in conversation {
        boot.args(["--expect", expected, "--answer", answer]);
    }
    let output = boot.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(came.load(Ordering::SeqCst), 1);
}
