//! What breaks the protocol, and what only fails.

use crate::client::Client;
use wire::{CrashKind, Frame, FrameKind, PREFIX_BYTES, Reply, Request, Spawn, Stdin};

#[test]
fn a_request_is_answered() {
    assert!(matches!(Client::connect().call(&Request::Mounts {}), Ok(Reply::Mounts { .. })));
}

#[test]
fn another_version_gets_ours_and_no_connection() {
    let client = Client::connect_silently();
    let hello = Request::Hello { version: 99, clock_unix_ns: 0, entropy: [0; wire::ENTROPY_BYTES] };
    let reply = client.call(&hello).unwrap();
    assert!(matches!(reply, Reply::Hello { version: wire::PROTOCOL_VERSION, .. }));
    assert!(client.open(&Request::Mounts {}).finish().reply.is_none());
    client.serving.join().unwrap();
}

#[test]
fn nothing_goes_before_the_hello() {
    let client = Client::connect_silently();
    let failed = client.call(&Request::Mounts {}).unwrap_err();
    assert_eq!(failed.reason, "there was no hello yet");
}

#[test]
fn an_unknown_verb_fails_and_the_connection_goes_on() {
    let client = Client::connect();
    let mut stream = client.open(&Request::Mounts {});
    stream.finish();
    let payload = br#"{"verb":"make-coffee"}"#.to_vec();
    let mut known = client.open_without_sending();
    let frame =
        Frame { stream: known.id, kind: FrameKind::Request, channel: wire::Channel::Main, payload };
    client.send(&frame);
    let failed = known.finish().into_result().unwrap_err();
    assert_eq!(failed.action, "understand the request");
    assert!(client.call(&Request::Mounts {}).is_ok());
}

#[test]
fn bytes_that_are_no_frame_end_the_connection() {
    let client = Client::connect();
    client.send_raw(&[0xff; PREFIX_BYTES]);
    client.serving.join().unwrap();
}

#[test]
fn data_over_the_credit_ends_the_connection() {
    let client = Client::connect();
    let spawn = Spawn {
        argv: ["sleep", "100"].map(String::from).to_vec(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        stdin: Stdin::Stream,
        ..Spawn::default()
    };
    let stream = client.open(&Request::Spawn(spawn));
    for _ in 0..=wire::INITIAL_CREDIT_BYTES as usize / wire::DATA_MAX_BYTES + 2 {
        let bytes = vec![0; wire::DATA_MAX_BYTES];
        client.send(&Frame::data(stream.id, wire::Channel::Main, bytes));
    }
    client.serving.join().unwrap();
}

#[test]
fn frames_for_streams_that_are_over_are_dropped() {
    let client = Client::connect();
    client.send(&Frame::data(7000, wire::Channel::Main, vec![1; 100]));
    client.send(&Frame::credit(7000, wire::Channel::Stdout, 5));
    client.send(&Frame::end(7000, wire::Channel::Main));
    assert!(client.call(&Request::Mounts {}).is_ok());
}

#[test]
fn a_process_does_not_end_its_machine() {
    let client = Client::connect();
    let crash = Request::Crash { how: CrashKind::PowerOff };
    for request in [Request::Shutdown { clean: true }, crash, Request::NetworkUp {}] {
        let failed = client.call(&request).unwrap_err();
        assert_eq!(failed.reason, "this agent has no machine of its own");
    }
}
