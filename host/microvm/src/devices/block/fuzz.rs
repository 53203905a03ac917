//! The body of the fuzz target for block requests.

use std::sync::Arc;

use machine::{BlockSize, DriveSerial};

use super::{Disk, Setup, raw::Raw};
use crate::{counters::Counters, devices::worker::Handler, fuzzing::rings, memory};

/// The size of the disk.
const DISK_BYTES: u64 = 1 << 20;
/// Turns that the thread takes at most: it has to rest by itself, as the ring has
/// fewer entries than one turn serves.
const TURNS: usize = 4;

/// Serves a ring made of the bytes; the first says what kind of disk it is.
pub(crate) fn run(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let (Ok(file), Ok(counters)) = (memory::create_file(DISK_BYTES), Counters::new()) else {
        return;
    };
    let (Ok(image), Ok(serial)) = (Raw::new(file), DriveSerial::new("fuzz")) else { return };
    let counters = Arc::new(counters);
    let mut disk = Disk {
        setup: Setup {
            serial,
            read_only: kind & 1 != 0,
            durable: kind & 2 != 0,
            block_size: BlockSize::B512,
        },
        image: Box::new(image),
        counters: Arc::clone(&counters),
        report: Some(Arc::new(|text| panic!("a disk that is whole failed: {text}"))),
        confine: None,
    };
    let Some(mut active) = rings::activation(bytes, 1, &counters) else { return };
    let rested = (0..TURNS).any(|_| !disk.process(&mut active));
    assert!(rested, "the disk found more work than the ring can hold");
}
