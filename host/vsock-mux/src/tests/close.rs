//! How connections end: each direction separately, both at once, and with data in flight.

use std::{
    io::{ErrorKind, Read, Write},
    net::Shutdown,
};

use super::guest::{GUEST_PORT, Guest, OPEN_PORT};
use crate::{
    CONNECTION_BUFFER_BYTES,
    packet::{Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND},
};

#[test]
fn the_guest_stops_sending_and_still_receives() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.send_bytes(b"all there is");
    guest.say(Op::Shutdown, SHUTDOWN_SEND);
    let mut read = String::new();
    host.read_to_string(&mut read).unwrap();
    assert_eq!(read, "all there is");

    host.write_all(b"an answer").unwrap();
    assert_eq!(guest.receive_one().payload, b"an answer");
    drop(host);
    let farewell = guest.receive_one();
    assert_eq!((farewell.op(), farewell.header.flags), (Op::Shutdown, SHUTDOWN_BOTH));
    guest.say(Op::Reset, 0);
    assert_eq!(guest.connector.stats().connections, 0);
}

#[test]
fn the_host_stops_sending_and_still_receives() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    host.write_all(b"a question").unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    let packets = guest.receive();
    assert_eq!(packets[0].payload, b"a question");
    assert_eq!((packets[1].op(), packets[1].header.flags), (Op::Shutdown, SHUTDOWN_SEND));
    assert_eq!(packets.len(), 2);

    guest.send_bytes(b"an answer");
    guest.say(Op::Shutdown, SHUTDOWN_BOTH);
    assert_eq!(guest.receive_ops(), [Op::Reset]);
    let mut read = String::new();
    host.read_to_string(&mut read).unwrap();
    assert_eq!(read, "an answer");
}

#[test]
fn the_guest_stops_receiving() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.say(Op::Shutdown, SHUTDOWN_RECEIVE);
    assert_eq!(host.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    guest.send_bytes(b"still sending");
    let mut buffer = [0; 32];
    assert_eq!(host.read(&mut buffer).unwrap(), 13);
    guest.say(Op::Shutdown, SHUTDOWN_SEND);
    assert_eq!(guest.receive_ops(), [Op::Shutdown, Op::Reset]);
    assert_eq!(guest.connector.stats().connections, 0);
}

#[test]
fn the_host_stops_receiving() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    host.shutdown(Shutdown::Read).unwrap();
    guest.send_bytes(b"to nobody");
    let packet = guest.receive_one();
    assert_eq!((packet.op(), packet.header.flags), (Op::Shutdown, SHUTDOWN_RECEIVE));
    assert_eq!(packet.header.fwd_cnt, 9, "what is thrown away counts as taken");
    host.write_all(b"still sending").unwrap();
    assert_eq!(guest.receive_one().payload, b"still sending");
}

#[test]
fn a_host_that_closes_delivers_what_it_wrote() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    host.write_all(b"last words").unwrap();
    drop(host);
    let packets = guest.receive();
    let bytes: Vec<u8> = packets.iter().flat_map(|p| p.payload.clone()).collect();
    assert_eq!(bytes, b"last words");
    let last = packets.last().unwrap();
    assert_eq!((last.op(), last.header.flags), (Op::Shutdown, SHUTDOWN_BOTH));
    // Data of the guest that crosses the SHUTDOWN is not an error.
    guest.send_bytes(b"crossed");
    assert_eq!(guest.receive_ops(), []);
    guest.say(Op::Shutdown, SHUTDOWN_BOTH);
    assert_eq!(guest.receive_ops(), [Op::Reset]);
    assert_eq!(guest.connector.stats().connections, 0);
}

#[test]
fn a_host_that_closes_with_bytes_unread_ends_both_directions() {
    let mut guest = Guest::new();
    let host = guest.connect();
    guest.send_bytes(b"unread");
    drop(host);
    let packet = guest.receive_one();
    assert_eq!((packet.op(), packet.header.flags), (Op::Shutdown, SHUTDOWN_BOTH));
}

#[test]
fn a_guest_that_closes_loses_nothing_to_a_slow_reader() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let chunk = [7_u8; 20_000];
    let (mut sent, mut told) = (0, 0);
    // All available credit: more than the socket pair holds, so that some data waits in the
    // backlog.
    while sent + chunk.len() - told <= usize::try_from(CONNECTION_BUFFER_BYTES).unwrap() {
        guest.send_bytes(&chunk);
        sent += chunk.len();
        if let Some(packet) = guest.receive().last() {
            told = usize::try_from(packet.header.fwd_cnt).unwrap();
        }
    }
    guest.say(Op::Shutdown, SHUTDOWN_BOTH);
    assert!(guest.receive_ops().contains(&Op::Reset), "the tuple is free at once");
    assert_eq!(guest.connector.stats().connections, 1, "the backlog still has to go");

    // The same tuple again, while the first connection lingers.
    let mut second = guest.connect();
    guest.send_bytes(b"second");
    let mut buffer = [0; 16];
    assert_eq!(second.read(&mut buffer).unwrap(), 6);

    let mut received = 0;
    host.set_nonblocking(true).unwrap();
    let mut buffer = [0; 16 * 1024];
    loop {
        match host.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => received += count,
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                guest.run();
            }
            Err(cause) => panic!("{cause}"),
        }
    }
    assert_eq!(received, sent);
    assert_eq!(guest.connector.stats().connections, 1);
}

#[test]
fn a_guest_that_resets_drops_the_connection() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.say(Op::Reset, 0);
    assert_eq!(guest.receive_ops(), []);
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    let header = guest.header(Op::CreditUpdate, OPEN_PORT, GUEST_PORT);
    guest.send(header, &[]);
    assert_eq!(guest.receive_ops(), [Op::Reset], "the tuple is unknown again");
}
