//! The body of the fuzz target for block requests.

use std::sync::Arc;

use machine::{BlockSize, DriveSerial};

use super::{Disk, Setup, raw::Raw};
use crate::{
    counters::Counters,
    devices::{fuzz_rings as rings, virtio::Activation, worker::Handler},
    memory,
};

/// The size of the disk.
const DISK_BYTES: u64 = 1 << 20;
/// Maximum turns of the thread: it must come to rest, as the ring has fewer entries than one turn
/// processes.
const TURNS: usize = 4;

/// Processes a ring made from the input; the first byte selects the kind of disk.
pub(crate) fn run(bytes: &[u8]) {
    let Some((mut disk, mut active)) = disk(bytes) else { return };
    let rested = (0..TURNS).any(|_| !disk.process(&mut active));
    assert!(rested, "the disk found more work than the ring can hold");
}

/// The same, in memory that another thread changes.
pub(crate) fn run_with_concurrent_writer(bytes: &[u8]) {
    let Some((mut disk, mut active)) = disk(bytes) else { return };
    let memory = active.memory.clone();
    rings::with_concurrent_writer(&memory, bytes, || {
        for _ in 0..TURNS {
            disk.process(&mut active);
        }
    });
}

fn disk(bytes: &[u8]) -> Option<(Disk, Activation)> {
    let (kind, bytes) = bytes.split_first()?;
    let (file, counters) = (memory::create_file(DISK_BYTES).ok()?, Counters::new().ok()?);
    let (image, serial) = (Raw::new(file).ok()?, DriveSerial::new("fuzz").ok()?);
    let counters = Arc::new(counters);
    let disk = Disk {
        setup: Setup {
            serial,
            read_only: kind & 1 != 0,
            durable: kind & 2 != 0,
            block_size: BlockSize::B512,
        },
        image: Box::new(image),
        counters: Arc::clone(&counters),
        report: Some(Arc::new(|text| panic!("a disk that is whole failed: {text}"))),
    };
    Some((disk, rings::activation(bytes, 1, &counters)?))
}
