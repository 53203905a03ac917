//! Tests of the disk with hand-made rings.

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    sync::Mutex,
};

use proptest::prelude::*;
use virtio_queue::{
    desc::{RawDescriptor, split::Descriptor},
    mock::MockSplitQueue,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{raw::Raw, *};
use crate::devices::virtio::{ActiveQueue, Interrupt, event};

const DISK_BYTES: u64 = 1 << 20;
const DATA: u64 = 0x8000;
const STATUS: u64 = 0x7000;
const HEADER: u64 = 0x6000;
const MEMORY_BYTES: usize = 0x20000;

struct Bench {
    memory: GuestMemoryMmap,
    disk: Disk,
    file: File,
    reports: Arc<Mutex<Vec<String>>>,
}

fn bench(read_only: bool) -> Bench {
    let file = tempfile::tempfile().unwrap();
    file.set_len(DISK_BYTES).unwrap();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&reports);
    let disk = Disk {
        setup: Setup {
            serial: DriveSerial::new("target").unwrap(),
            read_only,
            durable: false,
            block_size: BlockSize::B512,
        },
        image: Box::new(Raw::new(file.try_clone().unwrap()).unwrap()),
        counters: Arc::new(Counters::new().unwrap()),
        report: Some(Arc::new(move |text| sink.lock().unwrap().push(text))),
    };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    Bench { memory, disk, file, reports }
}

fn readable(addr: u64, len: u32) -> RawDescriptor {
    RawDescriptor::from(Descriptor::new(addr, len, 0, 0))
}

fn writable(addr: u64, len: u32) -> RawDescriptor {
    RawDescriptor::from(Descriptor::new(addr, len, 2, 0))
}

impl Bench {
    /// Runs one chain; returns the status byte and the used length.
    fn run(&mut self, kind: u32, sector: u64, data: &[RawDescriptor]) -> (u8, u32) {
        self.try_run(kind, sector, data).expect("an answer")
    }

    /// The same; `None` if the disk does not reply.
    fn try_run(&mut self, kind: u32, sector: u64, data: &[RawDescriptor]) -> Option<(u8, u32)> {
        self.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        self.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        self.memory.write_obj(0xeeu8, GuestAddress(STATUS)).unwrap();
        let chain = [&[readable(HEADER, 16)], data, &[writable(STATUS, 1)]].concat();
        let memory = self.memory.clone();
        let ring = MockSplitQueue::new(&memory, 16);
        memory.write_slice(&[0; 8], ring.avail_addr()).unwrap();
        memory.write_slice(&[0; 8], ring.used_addr()).unwrap();
        ring.build_desc_chain(&chain).unwrap();
        let mut active = self.active(&ring);
        assert!(!self.disk.process(&mut active));
        if ring.used().idx().load() == 0 {
            return None;
        }
        let used = ring.used().ring().ref_at(0).unwrap().load().len();
        Some((memory.read_obj(GuestAddress(STATUS)).unwrap(), used))
    }

    fn active(&self, ring: &MockSplitQueue<'_, GuestMemoryMmap>) -> Activation {
        Activation {
            queues: vec![ActiveQueue {
                queue: ring.create_queue().unwrap(),
                notify: Arc::new(event().unwrap()),
            }],
            memory: self.memory.clone(),
            interrupt: Interrupt::new(Arc::clone(&self.disk.counters)).unwrap(),
        }
    }
}

#[test]
fn what_is_written_can_be_read() {
    let mut bench = bench(false);
    bench.memory.write_slice(&[0x5a; 1024], GuestAddress(DATA)).unwrap();
    let out = [readable(DATA, 512), readable(DATA + 512, 512)];
    assert_eq!(bench.run(1, 7, &out), (0, 1));
    let mut bytes = [0; 1024];
    bench.file.read_exact_at(&mut bytes, 7 * 512).unwrap();
    assert_eq!(bytes, [0x5a; 1024]);
    let back = [writable(DATA + 0x1000, 100), writable(DATA + 0x1064, 924)];
    assert_eq!(bench.run(0, 7, &back), (0, 1025));
    bench.memory.read_slice(&mut bytes, GuestAddress(DATA + 0x1000)).unwrap();
    assert_eq!(bytes, [0x5a; 1024]);
}

#[test]
fn ranges_outside_of_the_disk_and_odd_lengths_fail() {
    let mut bench = bench(false);
    let last = DISK_BYTES / 512;
    assert_eq!(bench.run(0, last - 1, &[writable(DATA, 512)]).0, 0);
    assert_eq!(bench.run(0, last, &[writable(DATA, 512)]), (1, 1));
    assert_eq!(bench.run(0, u64::MAX, &[writable(DATA, 512)]).0, 1);
    assert_eq!(bench.run(0, u64::MAX / 512, &[writable(DATA, 512)]).0, 1);
    assert_eq!(bench.run(1, 0, &[readable(DATA, 100)]).0, 1);
    assert_eq!(bench.run(99, 0, &[]).0, 2);
}

#[test]
fn the_serial_is_told() {
    let mut bench = bench(false);
    assert_eq!(bench.run(8, 0, &[writable(DATA, 20)]), (0, 21));
    let mut id = [0; 20];
    bench.memory.read_slice(&mut id, GuestAddress(DATA)).unwrap();
    assert_eq!(&id, b"target\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(bench.run(8, 0, &[writable(DATA, 19)]).0, 1);
}

#[test]
fn discards_and_zero_writes_make_holes() {
    let mut bench = bench(false);
    bench.file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    bench.file.sync_all().unwrap();
    let before = bench.file.metadata().unwrap().blocks();
    let segment = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let ask = |bench: &mut Bench, kind, segments: &[u8]| {
        bench.memory.write_slice(segments, GuestAddress(DATA)).unwrap();
        bench.run(kind, 0, &[readable(DATA, u32::try_from(segments.len()).unwrap())]).0
    };
    assert_eq!(ask(&mut bench, 11, &segment(0, 1024, 0)), 0);
    assert_eq!(ask(&mut bench, 13, &segment(1024, 512, 1)), 0);
    let after = bench.file.metadata().unwrap().blocks();
    assert!(after + 1500 <= before, "{before} blocks, then {after}");
    let mut byte = [9];
    bench.file.read_exact_at(&mut byte, 1024 * 512).unwrap();
    assert_eq!(byte, [0]);
    assert_eq!(bench.disk.counters.get(Counter::BlockBytesDiscarded), 1536 * 512);
    assert_eq!(ask(&mut bench, 11, &segment(2048, 1, 0)), 1, "beyond the end");
    assert_eq!(ask(&mut bench, 11, &segment(u64::MAX, u32::MAX, 0)), 1);
    assert_eq!(ask(&mut bench, 13, &segment(0, 1, 2)), 2, "unknown flag");
    assert_eq!(ask(&mut bench, 11, &[0; 8]), 1, "half a segment");
}

/// The guest does not choose how much the host writes for one request.
#[test]
fn one_request_writes_a_bounded_number_of_zeros() {
    let mut bench = bench(false);
    let sectors = 2 * ZEROES_MAX_SECTORS;
    bench.file.set_len(u64::from(sectors) * SECTOR_BYTES).unwrap();
    bench.disk.image = Box::new(Raw::new(bench.file.try_clone().unwrap()).unwrap());
    let segment = |sectors: u32, flags: u32| {
        [&0u64.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let ask = |bench: &mut Bench, segments: &[u8]| {
        bench.memory.write_slice(segments, GuestAddress(DATA)).unwrap();
        bench.run(13, 0, &[readable(DATA, u32::try_from(segments.len()).unwrap())]).0
    };
    for unmap in [0, 1] {
        assert_eq!(ask(&mut bench, &segment(ZEROES_MAX_SECTORS + 1, unmap)), 1);
        assert_eq!(ask(&mut bench, &segment(1, unmap).repeat(2)), 1, "two segments");
    }
    assert_eq!(bench.file.metadata().unwrap().blocks(), 0, "nothing was written");
    assert_eq!(ask(&mut bench, &segment(8, 0)), 0);
    let config = config_space(&bench.disk.setup, bench.disk.image.as_ref());
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!((word(48), word(52)), (ZEROES_MAX_SECTORS, ZEROES_MAX_SEGMENTS));
}

#[test]
fn zeros_that_are_written_become_a_hole() {
    const LEN: u32 = 64 << 10;
    let mut bench = bench(false);
    bench.file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    bench.file.sync_all().unwrap();
    let before = bench.file.metadata().unwrap().blocks();
    let halves = [readable(DATA, LEN / 2), readable(DATA + u64::from(LEN / 2), LEN / 2)];
    assert_eq!(bench.run(1, 0, &halves), (0, 1));
    assert_eq!(bench.file.metadata().unwrap().blocks() + u64::from(LEN / 512), before);
    // One non-zero byte at the end makes it data; short runs of zeros are data too.
    bench.memory.write_obj(7u8, GuestAddress(DATA + u64::from(LEN) - 1)).unwrap();
    assert_eq!(bench.run(1, 256, &halves), (0, 1));
    assert_eq!(bench.run(1, 512, &halves[..1]), (0, 1));
    assert_eq!(bench.file.metadata().unwrap().blocks() + u64::from(LEN / 512), before);
    let mut bytes = vec![9; 3 * LEN as usize];
    bench.file.read_exact_at(&mut bytes, 0).unwrap();
    let written = 256 * 512;
    assert!(bytes[..LEN as usize].iter().all(|byte| *byte == 0));
    assert!(bytes[LEN as usize..written].iter().all(|byte| *byte == 1));
    assert!(bytes[written..written + LEN as usize - 1].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[written + LEN as usize - 1], 7);
    let counted = |counter| bench.disk.counters.get(counter);
    assert_eq!(counted(Counter::BlockBytesWritten), u64::from(2 * LEN + LEN / 2));
    assert_eq!(counted(Counter::BlockBytesDiscarded), u64::from(LEN));
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let mut bench = bench(true);
    assert_eq!(bench.run(1, 0, &[readable(DATA, 512)]).0, 1);
    assert_eq!(bench.run(11, 0, &[readable(DATA, 16)]).0, 1);
    assert_eq!(bench.run(13, 0, &[readable(DATA, 16)]).0, 1);
    assert_eq!(bench.run(0, 0, &[writable(DATA, 512)]).0, 0);
    assert_eq!(features(&bench.disk.setup) & (F_READ_ONLY | F_DISCARD), F_READ_ONLY);
}

#[test]
fn a_disk_that_shrank_is_reported_once_and_answers_no_more() {
    let mut bench = bench(false);
    bench.file.set_len(4096).unwrap();
    assert_eq!(bench.try_run(0, 100, &[writable(DATA, 512)]), None);
    assert_eq!(bench.try_run(0, 0, &[writable(DATA, 512)]), None);
    let reports = bench.reports.lock().unwrap();
    assert_eq!(reports.len(), 1);
    assert!(reports[0].starts_with("the host failed to read the image of `target`"), "{reports:?}");
}

#[test]
fn a_full_host_is_named() {
    let mut bench = bench(false);
    bench.disk.failed("write", &io::ErrorKind::StorageFull.into());
    assert_eq!(bench.try_run(1, 0, &[readable(DATA, 512)]), None);
    let reports = bench.reports.lock().unwrap();
    assert_eq!(*reports, ["the host has no space left for the image of `target`"]);
}

#[test]
fn a_failed_swap_keeps_the_old_image() {
    let mut bench = bench(false);
    let (done, result) = std::sync::mpsc::sync_channel(1);
    let layer: image::NewLayer = Box::new(|old| Err((old, io::ErrorKind::InvalidData.into())));
    bench.disk.request(Swap { layer, done }, None);
    assert!(result.recv().unwrap().is_err());
    assert_eq!(bench.run(0, 0, &[writable(DATA, 512)]).0, 0);
    let (done, result) = std::sync::mpsc::sync_channel(1);
    let fresh = tempfile::tempfile().unwrap();
    fresh.set_len(DISK_BYTES).unwrap();
    fresh.write_all_at(b"new", 0).unwrap();
    let layer: image::NewLayer = Box::new(|_| Ok(Box::new(Raw::new(fresh).unwrap())));
    bench.disk.request(Swap { layer, done }, None);
    result.recv().unwrap().unwrap();
    assert_eq!(bench.run(0, 0, &[writable(DATA, 512)]).0, 0);
    let mut bytes = [0; 3];
    bench.memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
    assert_eq!(&bytes, b"new");
}

#[test]
fn the_configuration_space_has_its_fields_in_place() {
    let bench = bench(false);
    let config = config_space(&bench.disk.setup, bench.disk.image.as_ref());
    assert_eq!(config.len(), 60);
    let word = |at: usize| u32::from_le_bytes(config[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(12), word(20)), (2048, SEG_MAX, 512));
    assert_eq!((word(36), word(44), config[56]), (DISCARD_MAX_SECTORS, 8, 1));
}

#[test]
fn an_available_index_that_lies_breaks_the_device() {
    let mut bench = bench(false);
    let memory = bench.memory.clone();
    let ring = MockSplitQueue::new(&memory, 16);
    ring.avail().idx().store(1000);
    let mut active = bench.active(&ring);
    assert!(!bench.disk.process(&mut active));
    assert!(active.interrupt.is_broken());
}

proptest! {
    /// Random descriptor tables and rings, inside and outside of memory, with loops: no panic, no
    /// endless loop, no access outside of RAM (slices come only from checked guest memory).
    #[test]
    fn random_chains_are_survived(
        descriptors in prop::collection::vec(
            (0u64..0x22000, prop_oneof![0u32..0x400, any::<u32>()], 0u16..8, 0u16..20), 16..17),
        heads in prop::collection::vec(0u16..20, 1..16),
        header in (0u32..15, prop_oneof![0u64..3000, any::<u64>()]),
    ) {
        let mut bench = bench(false);
        let memory = bench.memory.clone();
        let ring = MockSplitQueue::new(&memory, 16);
        for place in (0x400..MEMORY_BYTES as u64).step_by(64) {
            memory.write_obj(header.0, GuestAddress(place)).unwrap();
            memory.write_obj(header.1, GuestAddress(place + 8)).unwrap();
        }
        for (index, (addr, len, flags, next)) in (0u16..).zip(&descriptors) {
            let descriptor = RawDescriptor::from(Descriptor::new(*addr, *len, *flags, *next));
            ring.desc_table().store(index, descriptor).unwrap();
        }
        for (index, head) in heads.iter().enumerate() {
            ring.avail().ring().ref_at(index).unwrap().store(*head);
        }
        ring.avail().idx().store(u16::try_from(heads.len()).unwrap());
        let mut active = bench.active(&ring);
        for _ in 0..8 {
            bench.disk.process(&mut active);
        }
        // The chains may point at the rings themselves; only the file must be intact.
        prop_assert_eq!(bench.file.metadata().unwrap().len(), DISK_BYTES);
    }
}
