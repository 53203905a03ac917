//! Processes over a pair of sockets: what a host sees of their output, their
//! end, and of many at once.

use std::time::Duration;

use crate::client::{Client, Outcome};
use wire::{ExitStatus, Reply, Request, Spawn, Stdin, TerminalSize};

fn shell(script: &str) -> Spawn {
    Spawn {
        argv: ["sh", "-c", script].map(String::from).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("B".into(), "2".into())],
        cwd: "/".into(),
        ..Spawn::default()
    }
}

/// The user that the tests run as.
fn user_id() -> u32 {
    let output = std::process::Command::new("id").arg("-u").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn run(client: &Client, spawn: Spawn) -> Outcome {
    client.open(&Request::Spawn(spawn)).finish()
}

fn status(outcome: &Outcome) -> ExitStatus {
    match &outcome.reply {
        Some(Reply::Exited { status, .. }) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn output_exit_status_and_environment_arrive() {
    let client = Client::connect();
    let outcome = run(&client, shell("echo out $B; echo err >&2; pwd; exit 7"));
    assert_eq!(outcome.stdout, b"out 2\n/\n");
    assert_eq!(outcome.stderr, b"err\n");
    assert_eq!(status(&outcome), ExitStatus::Code(7));
    assert!(outcome.started.is_some());
}

#[test]
fn nothing_is_added_to_the_environment_and_the_order_is_kept() {
    let client = Client::connect();
    let mut spawn = shell("");
    spawn.argv = vec!["env".into()];
    spawn.env = [("Z", "1"), ("A", "2"), ("PATH", "/usr/bin:/bin")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .to_vec();
    let outcome = run(&client, spawn);
    assert_eq!(outcome.stdout, b"Z=1\nA=2\nPATH=/usr/bin:/bin\n");
}

#[test]
fn syncs_are_ignored_where_that_is_asked_for() {
    if user_id() != 0 {
        println!("skipped syncs_are_ignored_where_that_is_asked_for: it needs root");
        return;
    }
    let client = Client::connect();
    // There is nothing to sync in /dev/null, and the kernel says so. `env` shows that
    // the filter is inherited.
    for command in ["sync /dev/null", "env sync -d /dev/null"] {
        let real = run(&client, shell(command));
        assert_eq!(status(&real), ExitStatus::Code(1), "{command}");
        let ignored = run(&client, Spawn { ignore_sync: true, ..shell(command) });
        assert_eq!(status(&ignored), ExitStatus::Code(0), "{command}: {ignored:?}");
    }
}

#[test]
fn a_program_that_is_not_there_is_a_failure_and_no_exit() {
    let client = Client::connect();
    let mut spawn = shell("");
    spawn.argv = vec!["no-such-program".into()];
    let failed = run(&client, spawn).into_result().unwrap_err();
    assert_eq!(failed.to_string(), "run `no-such-program`: No such file or directory");
    let mut spawn = shell("");
    spawn.cwd = "/no/such/place".into();
    let failed = run(&client, spawn).into_result().unwrap_err();
    assert_eq!(failed.action, "enter the directory `/no/such/place`");
    assert_eq!(failed.errno, Some(2));
}

#[test]
fn standard_input_streams_with_credit_both_ways() {
    let client = Client::connect();
    let mut spawn = shell("cat");
    spawn.stdin = Stdin::Stream;
    let sent: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut stream = client.open(&Request::Spawn(spawn));
    let received = std::thread::scope(|scope| {
        // Both directions are larger than every buffer between them, so the
        // frames that `put` finds while it waits for credit are kept.
        let mut received = Vec::new();
        let _ = scope;
        for piece in sent.chunks(wire::DATA_MAX_BYTES) {
            while stream.credit < piece.len() as u64 {
                let frame = stream.frame().unwrap();
                if frame.kind == wire::FrameKind::Data {
                    received.extend(frame.payload);
                }
            }
            stream.put(piece);
        }
        received
    });
    stream.end();
    let outcome = stream.finish();
    assert!([received, outcome.stdout.clone()].concat() == sent);
    assert_eq!(status(&outcome), ExitStatus::Code(0));
}

#[test]
fn a_process_that_does_not_read_does_not_hold_up_the_host() {
    let client = Client::connect();
    let mut spawn = shell("exec <&-; sleep 0.2");
    spawn.stdin = Stdin::Stream;
    let mut stream = client.open(&Request::Spawn(spawn));
    let frame = stream.frame().unwrap();
    assert!(matches!(frame.as_reply(), Ok(Reply::Started { .. })));
    std::thread::sleep(Duration::from_millis(100));
    // More than the credit of a fresh channel, into a closed pipe.
    let bytes = vec![0; 3 * wire::INITIAL_CREDIT_BYTES as usize / 2];
    for piece in bytes.chunks(wire::DATA_MAX_BYTES) {
        if stream.credit < piece.len() as u64 {
            break;
        }
        stream.put(piece);
    }
    assert_eq!(status(&stream.finish()), ExitStatus::Code(0));
}

#[test]
fn without_credit_the_output_waits_and_others_go_on() {
    let client = Client::connect();
    let mut flood = client.open(&Request::Spawn(shell("head -c 4000000 /dev/zero")));
    flood.gives_credit = false;
    let outcome = run(&client, shell("echo quick"));
    assert_eq!(outcome.stdout, b"quick\n");
    let mut bytes = 0;
    while bytes < u64::from(wire::INITIAL_CREDIT_BYTES) {
        let frame = flood.frame().unwrap();
        if frame.kind == wire::FrameKind::Data {
            bytes += frame.payload.len() as u64;
        }
    }
    assert_eq!(bytes, u64::from(wire::INITIAL_CREDIT_BYTES), "no byte over the credit");
    client.send(&wire::Frame::credit(flood.id, wire::Channel::Stdout, 10_000_000));
    let outcome = flood.finish();
    assert_eq!(outcome.stdout.len() as u64 + bytes, 4_000_000);
}

#[test]
fn signals_and_timeouts_are_told_apart() {
    let client = Client::connect();
    let outcome = run(&client, shell("kill -15 $$"));
    assert_eq!(status(&outcome), ExitStatus::Signal(15));
    let mut spawn = shell("echo before; (setsid sleep 100 &) ; sleep 100 & wait");
    spawn.timeout_ms = Some(300);
    let outcome = run(&client, spawn);
    assert_eq!(status(&outcome), ExitStatus::TimedOut);
    assert_eq!(outcome.stdout, b"before\n");
}

#[test]
fn a_daemon_that_keeps_the_pipes_does_not_hold_up_the_end() {
    let client = Client::connect();
    let outcome = run(&client, shell("echo text; sleep 30 & exit 3"));
    assert_eq!(status(&outcome), ExitStatus::Code(3));
    assert_eq!(outcome.stdout, b"text\n");
}

#[test]
fn what_still_writes_is_waited_for() {
    let client = Client::connect();
    let script = "(for i in 1 2 3 4 5 6; do sleep 0.25; echo $i; done; exec sleep 30) & exit 0";
    let outcome = run(&client, shell(script));
    assert_eq!(status(&outcome), ExitStatus::Code(0));
    assert_eq!(outcome.stdout, b"1\n2\n3\n4\n5\n6\n");
}

#[test]
fn standard_error_can_go_where_standard_output_goes() {
    let client = Client::connect();
    let mut spawn = shell("echo a; echo b >&2; echo c");
    spawn.merge_stderr = true;
    let outcome = run(&client, spawn);
    assert_eq!(outcome.stdout, b"a\nb\nc\n");
    assert!(outcome.stderr.is_empty());
}

#[test]
fn a_terminal_controls_its_session_and_has_a_size() {
    let client = Client::connect();
    let mut spawn = shell("stty size; read line; echo got $line; stty size; cat; exec </dev/tty");
    spawn.terminal = Some(TerminalSize { rows: 24, columns: 80 });
    let mut stream = client.open(&Request::Spawn(spawn));
    loop {
        if stream.frame().unwrap().payload.starts_with(b"24 80") {
            break;
        }
    }
    let size = TerminalSize { rows: 50, columns: 132 };
    let resize = Request::Resize { stream: stream.id, size };
    assert_eq!(client.call(&resize), Ok(Reply::Done {}));
    stream.put(b"hello\n");
    stream.end();
    let outcome = stream.finish();
    let text = String::from_utf8(outcome.stdout.clone()).unwrap();
    assert!(text.contains("got hello\r\n50 132\r\n"), "{text:?}");
    assert_eq!(status(&outcome), ExitStatus::Code(0));
}

#[test]
fn two_hundred_streams_run_at_once() {
    let client = Client::connect();
    let mut streams: Vec<_> = (0..200)
        .map(|n| client.open(&Request::Spawn(shell(&format!("read line; echo {n} $line")))))
        .collect();
    // Standard input is null, so each goes on at once; none waits for another.
    for (n, stream) in streams.iter_mut().enumerate() {
        let outcome = stream.finish();
        assert_eq!(outcome.stdout, format!("{n}\n").as_bytes());
        assert_eq!(status(&outcome), ExitStatus::Code(0));
    }
}

#[test]
fn a_lost_connection_ends_its_processes() {
    let client = Client::connect();
    let mut stream = client.open(&Request::Spawn(shell("echo $$; sleep 100")));
    let pid: i32 = loop {
        let frame = stream.frame().unwrap();
        if frame.kind == wire::FrameKind::Data {
            break String::from_utf8(frame.payload).unwrap().trim().parse().unwrap();
        }
    };
    client.hang_up();
    let process = format!("/proc/{pid}");
    for _ in 0..1000 {
        if !std::path::Path::new(&process).exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the process lives on");
}
