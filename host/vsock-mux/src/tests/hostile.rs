//! A hostile guest: whatever its rings contain, the device comes to rest, accesses only guest
//! memory, and limits what it stores.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::guest::{GUEST_PORT, Guest, NEXT, OPEN_PORT, SIZE, TX_AVAIL, WRITE};
use crate::packet::{Header, Op};

#[test]
fn chains_that_loop_or_leave_memory_are_given_back() {
    let mut guest = Guest::new();
    guest.tx.describe(&guest.mem, 0, (0x20_0000, 44, NEXT, 1));
    guest.tx.describe(&guest.mem, 1, (0x20_0000, 44, NEXT, 0));
    guest.tx.offer(&guest.mem, 0);
    guest.tx.describe(&guest.mem, 2, (u64::MAX - 8, 44, 0, 0));
    guest.tx.offer(&guest.mem, 2);
    guest.tx.describe(&guest.mem, 3, (0xff_fff0, 44, 0, 0));
    guest.tx.offer(&guest.mem, 3);
    guest.tx.offer(&guest.mem, 60_000);
    guest.tx.describe(&guest.mem, 4, (0x20_0000, 10, 0, 0));
    guest.tx.offer(&guest.mem, 4);
    let progress = guest.run();
    assert!(progress.signal_tx);
    // The device still works.
    guest.connect();
}

#[test]
fn an_indirect_table_of_thousands_is_refused() {
    let mut guest = Guest::new();
    let table = 0x30_0000_u64;
    for index in 0..4000_u16 {
        let raw = virtio_queue::desc::RawDescriptor::from(
            virtio_queue::desc::split::Descriptor::new(0x20_0000, 1, NEXT, index + 1),
        );
        guest.mem.write_obj(raw, GuestAddress(table + 16 * u64::from(index))).unwrap();
    }
    // VRING_DESC_F_INDIRECT
    guest.tx.describe(&guest.mem, 0, (table, 4000 * 16, 4, 0));
    guest.tx.offer(&guest.mem, 0);
    guest.run();
    assert_eq!(guest.receive_ops(), []);
}

#[test]
fn a_ring_index_out_of_range_does_not_spin() {
    let mut guest = Guest::new();
    guest.connect();
    // The index of the available ring, far beyond the ring's size.
    guest.mem.write_obj(40_000_u16, GuestAddress(TX_AVAIL + 2)).unwrap();
    guest.run();
}

#[test]
fn receive_buffers_too_small_for_a_byte_are_given_back() {
    let mut guest = Guest::without_buffers();
    guest.rx.describe(&guest.mem, 0, (0x10_0000, 44, WRITE, 0));
    guest.rx.offer(&guest.mem, 0);
    guest.rx.describe(&guest.mem, 1, (0x10_0000, 4096, 0, 0));
    guest.rx.offer(&guest.mem, 1);
    guest.say(Op::ReadWrite, 0);
    guest.give_buffer(2);
    let progress = guest.run();
    assert!(progress.signal_rx);
}

#[test]
fn replies_are_bounded_and_the_guest_gets_every_one() {
    let mut guest = Guest::without_buffers();
    let mut sent = 0;
    // No receive buffers: replies accumulate until the TX queue is no longer read.
    for _ in 0..40 {
        for _ in 0..SIZE / 2 {
            let header = guest.header(Op::CreditUpdate, OPEN_PORT, GUEST_PORT);
            guest.queue(header, &[]);
            sent += 1;
        }
        guest.run();
        if guest.tx_pending() > 0 {
            break;
        }
    }
    assert!(guest.tx_pending() > 0, "replies are not bounded");
    for index in 0..SIZE {
        guest.give_buffer(index);
    }
    let mut resets = 0;
    while resets < sent {
        let ops = guest.receive_ops();
        assert!(!ops.is_empty(), "only {resets} of {sent} arrived");
        assert!(ops.iter().all(|op| *op == Op::Reset));
        resets += ops.len();
    }
    assert_eq!((resets, guest.tx_pending()), (sent, 0));
}

/// A descriptor of a careless or hostile guest.
#[derive(Debug, Clone)]
struct Wild {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn wild() -> impl Strategy<Value = Wild> {
    let address = prop_oneof![0_u64..0x110_0000, any::<u64>(), Just(0x20_0000), Just(0x2f_ffd0)];
    let len = prop_oneof![0_u32..70_000, any::<u32>(), Just(44)];
    (address, len, 0_u16..8, 0_u16..SIZE + 4).prop_map(|(address, len, flags, next)| Wild {
        address,
        len,
        flags,
        next,
    })
}

fn wild_header() -> impl Strategy<Value = Header> {
    let cid = prop_oneof![Just(2_u64), Just(3), any::<u64>()];
    let port = prop_oneof![Just(OPEN_PORT), Just(GUEST_PORT), 0_u32..4, Just(1 << 30)];
    let number = prop_oneof![0_u32..100_000, any::<u32>()];
    (
        (cid.clone(), cid, port.clone(), port),
        (number.clone(), 0_u16..3, 0_u16..9, any::<u32>(), number.clone(), number),
    )
        .prop_map(|((src_cid, dst_cid, src_port, dst_port), rest)| {
            let (len, kind, op, flags, buf_alloc, fwd_cnt) = rest;
            Header {
                src_cid,
                dst_cid,
                src_port,
                dst_port,
                len,
                kind,
                op,
                flags,
                buf_alloc,
                fwd_cnt,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Random descriptor tables, rings and headers: no panic, no endless work.
    #[test]
    fn random_rings_come_to_rest(
        rx in prop::collection::vec(wild(), 1..usize::from(SIZE)),
        tx in prop::collection::vec(wild(), 1..usize::from(SIZE)),
        offers in prop::collection::vec((any::<bool>(), 0_u16..SIZE + 4), 1..64),
        headers in prop::collection::vec(wild_header(), 1..8),
    ) {
        let mut guest = Guest::without_buffers();
        let _host = guest.connector.connect(1).unwrap();
        for (index, header) in (0_u64..).zip(&headers) {
            let at = GuestAddress(0x20_0000 + 44 * index);
            guest.mem.write_slice(&header.to_bytes(), at).unwrap();
        }
        for (index, d) in (0_u16..).zip(&rx) {
            guest.rx.describe(&guest.mem, index, (d.address, d.len, d.flags, d.next));
        }
        for (index, d) in (0_u16..).zip(&tx) {
            guest.tx.describe(&guest.mem, index, (d.address, d.len, d.flags, d.next));
        }
        for (to_rx, head) in offers {
            let ring = if to_rx { &mut guest.rx } else { &mut guest.tx };
            ring.offer(&guest.mem, head);
            guest.run();
        }
    }

    /// Random well-formed packets on few tuples: the state machine never panics and never exceeds
    /// its limits.
    #[test]
    fn random_packets_keep_the_limits(
        packets in prop::collection::vec((wild_header(), 0_usize..5000), 1..80),
    ) {
        let mut guest = Guest::new();
        let mut streams = Vec::new();
        for (number, (header, len)) in packets.into_iter().enumerate() {
            if number % 16 == 0 {
                streams.push(guest.connector.connect(GUEST_PORT).unwrap());
            }
            let honest = Header { src_cid: 3, dst_cid: 2, kind: 1, ..header };
            guest.send(honest, &vec![0; len]);
            guest.receive();
            if number % 7 == 0 {
                streams.pop();
            }
        }
        prop_assert!(guest.connector.stats().connections <= 64);
    }
}
