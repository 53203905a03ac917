//! A minimal vsock driver: provides buffers, sends packets and collects those of the device.

use std::{
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
};

use virtio_queue::{
    Queue, QueueT,
    desc::{RawDescriptor, split::Descriptor},
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    Connector, GUEST_CID, HOST_CID, Mux, Progress,
    packet::{HEADER_BYTES, Header, Op, TYPE_STREAM},
};

/// Entries of each queue.
pub(super) const SIZE: u16 = 64;
const MEMORY_BYTES: usize = 16 << 20;
const RX_RING: u64 = 0;
const TX_RING: u64 = 0x1_0000;
/// Offsets of a queue's rings from its descriptor table. Not laid out by `MockSplitQueue`, whose
/// used ring overlaps the end of the available ring.
const AVAIL_OFFSET: u64 = 0x1000;
const USED_OFFSET: u64 = 0x2000;
pub(super) const TX_AVAIL: u64 = TX_RING + AVAIL_OFFSET;
const RX_BUFFERS: u64 = 0x10_0000;
const RX_STRIDE: u64 = 0x1000;
const TX_BUFFERS: u64 = 0x20_0000;
const TX_STRIDE: u64 = 0x1_1000;
/// `VRING_DESC_F_NEXT` and `VRING_DESC_F_WRITE`.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;

/// A packet as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
}

impl Packet {
    pub(super) fn op(&self) -> Op {
        Op::from_wire(self.header.op).expect("the device sends only known operations")
    }
}

/// A ring from the driver's side.
pub(super) struct Ring {
    base: u64,
    avail: u64,
    used: u64,
    avail_idx: u16,
    used_idx: u16,
}

impl Ring {
    fn new(mem: &GuestMemoryMmap, base: u64) -> (Self, Queue) {
        let (avail, used) = (base + AVAIL_OFFSET, base + USED_OFFSET);
        let low = |address: u64| Some(u32::try_from(address).unwrap());
        let mut queue = Queue::new(SIZE).unwrap();
        queue.set_size(SIZE);
        queue.set_desc_table_address(low(base), None);
        queue.set_avail_ring_address(low(avail), None);
        queue.set_used_ring_address(low(used), None);
        queue.set_ready(true);
        assert!(queue.is_valid(mem));
        (Self { base, avail, used, avail_idx: 0, used_idx: 0 }, queue)
    }

    pub(super) fn describe(
        &self,
        mem: &GuestMemoryMmap,
        index: u16,
        (address, len, flags, next): (u64, u32, u16, u16),
    ) {
        let raw = RawDescriptor::from(Descriptor::new(address, len, flags, next));
        mem.write_obj(raw, GuestAddress(self.base + 16 * u64::from(index))).unwrap();
    }

    pub(super) fn offer(&mut self, mem: &GuestMemoryMmap, head: u16) {
        let place = self.avail + 4 + 2 * u64::from(self.avail_idx % SIZE);
        mem.write_obj(head, GuestAddress(place)).unwrap();
        self.avail_idx = self.avail_idx.wrapping_add(1);
        mem.write_obj(self.avail_idx, GuestAddress(self.avail + 2)).unwrap();
    }

    /// The used chains: head and bytes written.
    fn taken(&mut self, mem: &GuestMemoryMmap) -> Vec<(u32, u32)> {
        let end: u16 = mem.read_obj(GuestAddress(self.used + 2)).unwrap();
        let mut taken = Vec::new();
        while self.used_idx != end {
            let place = self.used + 4 + 8 * u64::from(self.used_idx % SIZE);
            let head: u32 = mem.read_obj(GuestAddress(place)).unwrap();
            let len: u32 = mem.read_obj(GuestAddress(place + 4)).unwrap();
            taken.push((head, len));
            self.used_idx = self.used_idx.wrapping_add(1);
        }
        taken
    }
}

/// The guest with the device under test.
pub(super) struct Guest {
    pub(super) mem: GuestMemoryMmap,
    pub(super) mux: Mux,
    pub(super) connector: Connector,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    pub(super) rx_queue: Queue,
    pub(super) tx_queue: Queue,
    /// Buffer size announced in every header.
    pub(super) buf_alloc: u32,
    /// Consumed bytes, announced in every header.
    pub(super) fwd_cnt: u32,
    accepted: Arc<Mutex<Vec<UnixStream>>>,
    next_tx: u16,
}

/// The port that accepts connections of guests; all others refuse.
pub(super) const OPEN_PORT: u32 = 7000;
/// The guest's own port.
pub(super) const GUEST_PORT: u32 = 33;

impl Guest {
    /// A guest that has provided all its receive buffers.
    pub(super) fn new() -> Self {
        let mut guest = Self::without_buffers();
        for index in 0..SIZE {
            guest.give_buffer(index);
        }
        guest
    }

    pub(super) fn without_buffers() -> Self {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let hall = Arc::clone(&accepted);
        let policy = move |port| {
            (port == OPEN_PORT).then(|| {
                let (ours, theirs) = UnixStream::pair().unwrap();
                hall.lock().unwrap().push(ours);
                theirs
            })
        };
        let (mux, connector) = Mux::new(GUEST_CID, Arc::new(policy)).unwrap();
        let (rx, rx_queue) = Ring::new(&mem, RX_RING);
        let (tx, tx_queue) = Ring::new(&mem, TX_RING);
        Self {
            mem,
            mux,
            connector,
            rx,
            tx,
            rx_queue,
            tx_queue,
            buf_alloc: 256 * 1024,
            fwd_cnt: 0,
            accepted,
            next_tx: 0,
        }
    }

    /// Provides one receive buffer of a page, for header and payload.
    pub(super) fn give_buffer(&mut self, index: u16) {
        let address = RX_BUFFERS + RX_STRIDE * u64::from(index);
        self.rx.describe(&self.mem, index, (address, 4096, WRITE, 0));
        self.rx.offer(&self.mem, index);
    }

    /// Lets the device work until it is done. Bounded, so that a device that always requests more
    /// work fails the test.
    pub(super) fn run(&mut self) -> Progress {
        let mut total = Progress::default();
        for _ in 0..10_000 {
            let step = self.mux.process(&self.mem, &mut self.rx_queue, &mut self.tx_queue);
            total.signal_rx |= step.signal_rx;
            total.signal_tx |= step.signal_tx;
            if !step.again {
                return total;
            }
        }
        panic!("the device never comes to rest");
    }

    /// Queues a packet, with header and payload in two descriptors as in Linux 6.1.
    pub(super) fn queue(&mut self, header: Header, payload: &[u8]) {
        let head = self.next_tx;
        self.next_tx = (self.next_tx + 2) % SIZE;
        let at = TX_BUFFERS + TX_STRIDE * u64::from(head);
        self.mem.write_slice(&header.to_bytes(), GuestAddress(at)).unwrap();
        let header_len = u32::try_from(HEADER_BYTES).unwrap();
        if payload.is_empty() {
            self.tx.describe(&self.mem, head, (at, header_len, 0, 0));
        } else {
            let data = at + 0x1000;
            self.mem.write_slice(payload, GuestAddress(data)).unwrap();
            self.tx.describe(&self.mem, head, (at, header_len, NEXT, head + 1));
            let len = u32::try_from(payload.len()).unwrap();
            self.tx.describe(&self.mem, head + 1, (data, len, 0, 0));
        }
        self.tx.offer(&self.mem, head);
    }

    /// A header of the connection between these ports.
    pub(super) fn header(&self, op: Op, host_port: u32, guest_port: u32) -> Header {
        Header {
            src_cid: GUEST_CID,
            dst_cid: HOST_CID,
            src_port: guest_port,
            dst_port: host_port,
            len: 0,
            kind: TYPE_STREAM,
            op: op.to_wire(),
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    /// Sends a packet and lets the device work.
    pub(super) fn send(&mut self, header: Header, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap();
        self.queue(Header { len, ..header }, payload);
        self.run();
        self.tx.taken(&self.mem);
    }

    /// Sends a packet without payload on the connection of [`Guest::connect`].
    pub(super) fn say(&mut self, op: Op, flags: u32) {
        let header = self.header(op, OPEN_PORT, GUEST_PORT);
        self.send(Header { flags, ..header }, &[]);
    }

    /// Sends bytes on the connection of [`Guest::connect`].
    pub(super) fn send_bytes(&mut self, payload: &[u8]) {
        let header = self.header(Op::ReadWrite, OPEN_PORT, GUEST_PORT);
        self.send(header, payload);
    }

    /// Receives the packets of the device, and returns the buffers.
    pub(super) fn receive(&mut self) -> Vec<Packet> {
        self.run();
        let mut packets = Vec::new();
        for (head, len) in self.rx.taken(&self.mem) {
            let at = RX_BUFFERS + RX_STRIDE * u64::from(head);
            let mut bytes = vec![0; usize::try_from(len).unwrap()];
            self.mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            let (header, payload) = bytes.split_first_chunk().unwrap();
            let header = Header::from_bytes(header);
            assert_eq!(usize::try_from(header.len).unwrap(), payload.len());
            assert_eq!((header.src_cid, header.dst_cid), (HOST_CID, GUEST_CID));
            packets.push(Packet { header, payload: payload.to_vec() });
            self.rx.offer(&self.mem, u16::try_from(head).unwrap());
        }
        packets
    }

    /// Receives exactly one packet.
    pub(super) fn receive_one(&mut self) -> Packet {
        let packets = self.receive();
        assert_eq!(packets.len(), 1, "{packets:?}");
        packets.into_iter().next().unwrap()
    }

    /// The operations of the received packets.
    pub(super) fn receive_ops(&mut self) -> Vec<Op> {
        self.receive().iter().map(Packet::op).collect()
    }

    /// Opens a connection from [`GUEST_PORT`] to [`OPEN_PORT`]; returns the host's end.
    pub(super) fn connect(&mut self) -> UnixStream {
        self.say(Op::Request, 0);
        assert_eq!(self.receive_ops(), [Op::Response]);
        self.accepted.lock().unwrap().pop().unwrap()
    }

    /// Packets that the device has not taken yet.
    pub(super) fn tx_pending(&self) -> u16 {
        self.tx.avail_idx.wrapping_sub(self.tx_queue.next_avail())
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }
}
