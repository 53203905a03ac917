//! Credit: neither side sends more than the other has room for.

use std::io::{Read, Write};

use proptest::prelude::*;

use super::guest::Guest;
use crate::{CONNECTION_BUFFER_BYTES, packet::Op};

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    guest.buf_alloc = 10;
    let mut host = guest.connect();
    host.write_all(b"0123456789abcdefghij").unwrap();
    let packets = guest.receive();
    assert_eq!(packets[0].payload, b"0123456789");
    assert_eq!(packets[1].op(), Op::CreditRequest);
    assert_eq!(packets.len(), 2, "it is asked once: {packets:?}");
    assert_eq!(guest.receive_ops(), []);

    guest.fwd_cnt = 4;
    guest.say(Op::CreditUpdate, 0);
    let packets = guest.receive();
    assert_eq!(packets[0].payload, b"abcd");
    guest.fwd_cnt = 100;
    guest.say(Op::CreditUpdate, 0);
    let ops = guest.receive_ops();
    assert!(!ops.contains(&Op::ReadWrite), "it claims to have read what it never got: {ops:?}");
}

#[test]
fn a_guest_that_sends_beyond_its_credit_is_reset() {
    let mut guest = Guest::new();
    let _host = guest.connect();
    let chunk = [0_u8; 64 * 1024];
    let mut ops = Vec::new();
    for _ in 0..32 {
        guest.send_bytes(&chunk);
        ops = guest.receive_ops();
        if ops.contains(&Op::Reset) {
            break;
        }
    }
    assert!(ops.contains(&Op::Reset), "the host buffers without bound");
}

#[test]
fn credit_comes_back_when_the_host_reads() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let mut buffer = vec![0; 1 << 20];
    let mut told = 0;
    for _ in 0..8 {
        guest.send_bytes(&[1; 40_000]);
        let count = host.read(&mut buffer).unwrap();
        assert_eq!(count, 40_000);
        for packet in guest.receive() {
            assert_eq!(packet.op(), Op::CreditUpdate);
            assert_eq!(packet.header.buf_alloc, CONNECTION_BUFFER_BYTES);
            told = packet.header.fwd_cnt;
        }
    }
    assert!(told >= 8 * 40_000 - CONNECTION_BUFFER_BYTES / 2 - 40_000, "told only {told}");
}

#[test]
fn a_credit_request_is_answered() {
    let mut guest = Guest::new();
    let _host = guest.connect();
    guest.send_bytes(b"abc");
    guest.say(Op::CreditRequest, 0);
    let packet = guest.receive_one();
    assert_eq!((packet.op(), packet.header.fwd_cnt), (Op::CreditUpdate, 3));
}

/// An event on a connection of a correct guest.
#[derive(Debug, Clone)]
enum Happening {
    GuestSends(usize),
    HostReads(usize),
    HostWrites(usize),
    GuestReads,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (1_usize..65_000).prop_map(Happening::GuestSends),
        (1_usize..200_000).prop_map(Happening::HostReads),
        (1_usize..100_000).prop_map(Happening::HostWrites),
        Just(Happening::GuestReads),
    ]
}

/// Test data by stream position: loss, duplication and reordering are detected.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any order of reads and writes, a correct guest and the host receive each other's data
    /// completely and in order, without a reset.
    #[test]
    fn honest_streams_arrive_whole(happenings in prop::collection::vec(happening(), 1..60)) {
        let mut guest = Guest::new();
        guest.buf_alloc = 64 * 1024;
        let mut host = guest.connect();
        host.set_nonblocking(true).unwrap();
        let (mut guest_sent, mut host_got, mut host_sent, mut guest_got) = (0, 0, 0, 0);
        let mut device_fwd = 0_u32;
        let mut take = |guest: &mut Guest, got: &mut usize| {
            for packet in guest.receive() {
                device_fwd = packet.header.fwd_cnt;
                match packet.op() {
                    Op::ReadWrite => {
                        assert_eq!(packet.payload, pattern(*got, packet.payload.len()));
                        *got += packet.payload.len();
                        guest.fwd_cnt = u32::try_from(*got).unwrap();
                    }
                    Op::CreditUpdate | Op::CreditRequest => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
            device_fwd
        };
        for happening in happenings {
            match happening {
                Happening::GuestSends(len) => {
                    let fwd = take(&mut guest, &mut guest_got);
                    let under_way = guest_sent - usize::try_from(fwd).unwrap();
                    let room = usize::try_from(CONNECTION_BUFFER_BYTES).unwrap() - under_way;
                    let len = len.min(room);
                    if len > 0 {
                        guest.send_bytes(&pattern(guest_sent, len));
                        guest_sent += len;
                    }
                }
                Happening::HostReads(len) => {
                    let mut buffer = vec![0; len];
                    if let Ok(count) = host.read(&mut buffer) {
                        prop_assert_eq!(&buffer[..count], &pattern(host_got, count)[..]);
                        host_got += count;
                    }
                }
                Happening::HostWrites(len) => {
                    if let Ok(count) = host.write(&pattern(host_sent, len)) {
                        host_sent += count;
                    }
                }
                Happening::GuestReads => {
                    take(&mut guest, &mut guest_got);
                    guest.say(Op::CreditUpdate, 0);
                }
            }
        }
        // Let everything arrive.
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..200 {
            take(&mut guest, &mut guest_got);
            guest.say(Op::CreditUpdate, 0);
            if let Ok(count) = host.read(&mut buffer) {
                prop_assert_eq!(&buffer[..count], &pattern(host_got, count)[..]);
                host_got += count;
            }
        }
        prop_assert_eq!((host_got, guest_got), (guest_sent, host_sent));
    }
}
