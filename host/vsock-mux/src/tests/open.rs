//! Opens and refuses connections, and transfers data.

use std::{
    io::{Read, Write},
    os::fd::AsRawFd,
};

use super::guest::{GUEST_PORT, Guest, OPEN_PORT};
use crate::{
    CONNECTIONS_MAX, ConnectError,
    packet::{Header, Op, TYPE_STREAM},
};

#[test]
fn a_guest_connects_and_bytes_go_both_ways() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.send_bytes(b"from the guest");
    let mut buffer = [0; 64];
    let count = host.read(&mut buffer).unwrap();
    assert_eq!(&buffer[..count], b"from the guest");

    host.write_all(b"from the host").unwrap();
    let packet = guest.receive_one();
    assert_eq!(packet.op(), Op::ReadWrite);
    assert_eq!(packet.payload, b"from the host");
    assert_eq!((packet.header.src_port, packet.header.dst_port), (OPEN_PORT, GUEST_PORT));
    assert_eq!(packet.header.fwd_cnt, 14);
}

#[test]
fn a_large_write_fills_whole_buffers() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    host.write_all(&sent).unwrap();
    let packets = guest.receive();
    assert!(packets[..24].iter().all(|packet| packet.payload.len() == 4096 - 44));
    let received: Vec<u8> = packets.into_iter().flat_map(|packet| packet.payload).collect();
    assert_eq!(received, sent);
}

#[test]
fn a_refused_port_answers_with_reset() {
    let mut guest = Guest::new();
    let header = guest.header(Op::Request, OPEN_PORT + 1, GUEST_PORT);
    guest.send(header, &[]);
    let packet = guest.receive_one();
    assert_eq!(packet.op(), Op::Reset);
    assert_eq!((packet.header.src_port, packet.header.dst_port), (OPEN_PORT + 1, GUEST_PORT));
}

#[test]
fn the_host_connects_before_and_after_the_answer() {
    let mut guest = Guest::new();
    let mut host = guest.connector.connect(52).unwrap();
    host.write_all(b"early").unwrap();
    let request = guest.receive_one();
    assert_eq!((request.op(), request.header.dst_port), (Op::Request, 52));
    let response = guest.header(Op::Response, request.header.src_port, 52);
    guest.send(response, &[]);
    let packet = guest.receive_one();
    assert_eq!((packet.op(), &packet.payload[..]), (Op::ReadWrite, &b"early"[..]));
    assert_eq!(guest.connector.stats().connections, 1);
}

#[test]
fn a_guest_that_refuses_shows_as_the_end_of_the_stream() {
    let mut guest = Guest::new();
    let mut host = guest.connector.connect(52).unwrap();
    let request = guest.receive_one();
    let reset = guest.header(Op::Reset, request.header.src_port, 52);
    guest.send(reset, &[]);
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(guest.connector.stats().connections, 0);
}

#[test]
fn a_host_that_gives_up_before_the_request_went_out_is_never_heard_of() {
    let mut guest = Guest::without_buffers();
    drop(guest.connector.connect(52).unwrap());
    guest.run();
    // The end of the stream is seen in the same round as the request.
    guest.run();
    for index in 0..4 {
        guest.give_buffer(index);
    }
    assert_eq!(guest.receive_ops(), []);
    assert_eq!(guest.connector.stats().connections, 0);
}

#[test]
fn unknown_tuples_are_reset_and_resets_are_not_answered() {
    let mut guest = Guest::new();
    guest.say(Op::ReadWrite, 0);
    guest.say(Op::Shutdown, 3);
    guest.say(Op::CreditRequest, 0);
    assert_eq!(guest.receive_ops(), [Op::Reset; 3]);
    guest.say(Op::Reset, 0);
    assert_eq!(guest.receive_ops(), []);
}

#[test]
fn foreign_addresses_types_and_operations() {
    let mut guest = Guest::new();
    let header = guest.header(Op::Request, OPEN_PORT, GUEST_PORT);
    guest.send(Header { src_cid: 99, ..header }, &[]);
    guest.send(Header { dst_cid: 1, ..header }, &[]);
    assert_eq!(guest.receive_ops(), []);
    guest.send(Header { kind: 2, ..header }, &[]);
    let reset = guest.receive_one();
    assert_eq!((reset.op(), reset.header.kind), (Op::Reset, 2));
    guest.send(Header { op: 77, ..header }, &[]);
    let reset = guest.receive_one();
    assert_eq!((reset.op(), reset.header.kind), (Op::Reset, TYPE_STREAM));
    assert_eq!(guest.accepted(), 0);
}

#[test]
fn a_second_request_of_an_open_connection_resets_it() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.say(Op::Request, 0);
    assert_eq!(guest.receive_ops(), [Op::Reset]);
    assert_eq!(host.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn a_length_beyond_the_payload_resets_the_connection() {
    let mut guest = Guest::new();
    let _host = guest.connect();
    let header = guest.header(Op::ReadWrite, OPEN_PORT, GUEST_PORT);
    guest.queue(Header { len: 5000, ..header }, b"short");
    assert_eq!(guest.receive_ops(), [Op::Reset]);
}

#[test]
fn the_limit_of_connections_holds_both_ways() {
    let mut guest = Guest::new();
    let mut open = Vec::new();
    // Each pair needs two descriptors, and test processes may be limited to 1,024: so pairs are
    // created up to the limit of this process.
    for port in 0..u32::try_from(CONNECTIONS_MAX).unwrap() {
        match guest.connector.connect(port) {
            Ok(stream) => open.push(stream),
            Err(ConnectError::SocketPair { source, .. }) => {
                println!("only {} connections tried: {source}", open.len());
                return;
            }
            Err(other) => panic!("{other}"),
        }
        guest.receive();
    }
    assert!(matches!(guest.connector.connect(1), Err(ConnectError::TooMany)));
    guest.say(Op::Request, 0);
    assert_eq!(guest.receive_ops(), [Op::Reset]);
}

#[test]
fn a_device_that_is_gone_says_so() {
    let guest = Guest::new();
    let connector = guest.connector.clone();
    let mut waiting = connector.connect(1).unwrap();
    drop(guest);
    assert_eq!(waiting.read(&mut [0; 8]).unwrap(), 0);
    assert!(matches!(connector.connect(1), Err(ConnectError::Gone)));
}

#[test]
fn the_descriptor_to_poll_is_readable_only_with_work() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.receive();
    let fd = guest.mux.as_raw_fd();
    let readable = || {
        let watch = vmm_sys_util::epoll::Epoll::new().unwrap();
        let event = vmm_sys_util::epoll::EpollEvent::new(vmm_sys_util::epoll::EventSet::IN, 0);
        watch.ctl(vmm_sys_util::epoll::ControlOperation::Add, fd, event).unwrap();
        watch.wait(0, &mut [event]).unwrap() == 1
    };
    assert!(!readable());
    host.write_all(b"x").unwrap();
    assert!(readable());
    guest.receive();
    assert!(!readable());
}

#[test]
fn a_reset_of_the_device_ends_what_the_guest_knew() {
    let mut guest = Guest::new();
    let mut known = guest.connect();
    let mut unknown = guest.connector.connect(5).unwrap();
    unknown.set_nonblocking(true).unwrap();
    // Pick up the request without a buffer in which to announce it.
    let mut empty = Guest::without_buffers();
    guest.mux.process(&guest.mem, &mut empty.rx_queue, &mut guest.tx_queue);
    guest.mux.reset();
    assert_eq!(known.read(&mut [0; 8]).unwrap(), 0);
    let still_open = unknown.read(&mut [0; 8]).unwrap_err();
    assert_eq!(still_open.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(guest.receive_ops(), [Op::Request]);
}
