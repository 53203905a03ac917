//! The guest's way out: what a name in the user's words reaches, and what a stage without
//! a network reaches.

use std::net::SocketAddr;

use engine::events::Event;
use plan::{Context, Stage};
use tokio::{io::AsyncWriteExt, net::TcpListener};
use vbuild::pipeline;

use crate::{
    harness::{Ground, ground},
    plans::{self, sh, stage},
};

/// Greets each connection and keeps it open.
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

/// A stage whose script can ask for what the greeter says to a name.
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

/// What was refused so far: where to, and why.
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
    pipeline::build(&plan, &ground.settings, &ground.ctx).await.unwrap();
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
    pipeline::build(&plan, &ground.settings, &ground.ctx).await.unwrap();
    let expected =
        ["server.example: hello", "other.example: none", "127.0.0.1: none", "localhost: none"];
    assert_eq!(ground.recorder.lines(), expected);
    let (host, reason) = refusals(&ground).pop().unwrap();
    assert_eq!(host, "other.example:0");
    assert!(reason.contains("--allow-host"), "{reason}");
}
