//! Guest memory and rings made of a fuzz target's input, shared by the targets of devices.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    counters::Counters,
    devices::virtio::{Activation, ActiveQueue, Interrupt, event},
};

/// Entries of each ring.
pub(crate) const ENTRIES: u16 = 16;
/// Size of guest memory; descriptors point to within twice this size.
const MEMORY_BYTES: u64 = 0x2_0000;
/// Each ring has three pages: descriptors, available, used.
const RING_BYTES: u64 = 0x3000;
const PAGE: u64 = 0x1000;
const DESCRIPTOR_BYTES: usize = 16;

/// Takes up to `len` bytes of the input.
fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (head, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    head
}

/// Runs `work` while another thread repeatedly writes the input into guest memory: two bytes
/// for the address, two for the value.
pub(crate) fn with_concurrent_writer(memory: &GuestMemoryMmap, bytes: &[u8], work: impl FnOnce()) {
    /// Stops the writer, also if the work panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (writes, done) = (bytes.as_chunks::<4>().0, AtomicBool::new(writes_nothing(bytes)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for [low, high, value @ ..] in writes {
                    // All rings are in the first 64 KiB.
                    let at = GuestAddress(u64::from(u16::from_le_bytes([*low, *high])));
                    let _ = memory.write_slice(value, at);
                }
            }
        });
        let _done = Done(&done);
        work();
    });
}

fn writes_nothing(bytes: &[u8]) -> bool {
    bytes.len() < 4
}

/// Rings whose tables are the start of the input, and memory with the rest.
pub(crate) fn activation(
    mut bytes: &[u8],
    queues: u64,
    counters: &Arc<Counters>,
) -> Option<Activation> {
    let len = usize::try_from(MEMORY_BYTES).ok()?;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).ok()?;
    let mut active = Vec::new();
    for index in 0..queues {
        let base = index * RING_BYTES;
        let table = take(&mut bytes, usize::from(ENTRIES) * DESCRIPTOR_BYTES).to_vec();
        for (entry, descriptor) in (0..).zip(table.chunks(DESCRIPTOR_BYTES)) {
            let mut raw = [0; DESCRIPTOR_BYTES];
            raw[..descriptor.len()].copy_from_slice(descriptor);
            // Most addresses should be in memory or at its end.
            raw[3..8].fill(0);
            raw[2] &= 3;
            let at = GuestAddress(base + entry * DESCRIPTOR_BYTES as u64);
            memory.write_slice(&raw, at).ok()?;
        }
        let available = take(&mut bytes, 6 + 2 * usize::from(ENTRIES));
        memory.write_slice(available, GuestAddress(base + PAGE)).ok()?;
        let mut queue = Queue::new(ENTRIES).ok()?;
        queue.set_size(ENTRIES);
        queue.set_desc_table_address(Some(u32::try_from(base).ok()?), Some(0));
        queue.set_avail_ring_address(Some(u32::try_from(base + PAGE).ok()?), Some(0));
        queue.set_used_ring_address(Some(u32::try_from(base + 2 * PAGE).ok()?), Some(0));
        queue.set_event_idx(available.first().is_some_and(|byte| byte & 2 != 0));
        queue.set_ready(true);
        active.push(ActiveQueue { queue, notify: Arc::new(event().ok()?) });
    }
    let free = MEMORY_BYTES - queues * RING_BYTES;
    let room = bytes.len().min(usize::try_from(free).ok()?);
    memory.write_slice(&bytes[..room], GuestAddress(queues * RING_BYTES)).ok()?;
    let interrupt = Interrupt::new(Arc::clone(counters)).ok()?;
    Some(Activation { memory, queues: active, interrupt })
}
