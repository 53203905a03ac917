//! virtio-balloon, only for free page reporting: the guest reports large runs of unused pages, and
//! the host reclaims them until they are touched again. The balloon itself is never inflated.
//!
//! A guest kernel whose free pages must keep their contents (page poisoning) does not report them;
//! its driver decides that. So the content of a reported page is undefined for the guest until it
//! writes the page: the device may leave anything in it that is the guest's own. In a restored
//! machine, whose memory is partly a private mapping of a file, that is what the guest had there
//! when it was saved, and elsewhere zeros.

use std::{io, sync::Arc};

use vm_memory::VolatileSlice;

use super::{
    virtio::{Activation, ActiveQueue, Device},
    worker::{Handler, Worker},
};
use crate::counters::{Counter, Counters};

/// The device type.
const TYPE_BALLOON: u32 = 5;
/// `VIRTIO_BALLOON_F_REPORTING`.
const F_REPORTING: u64 = 1 << 5;
/// Inflate, deflate, and the reporting queue, which is the third because neither statistics nor
/// hinting are offered.
const QUEUES: usize = 3;
/// The reporting queue.
const REPORTING_QUEUE: usize = 2;
/// A report has at most 32 runs (`PAGE_REPORTING_CAPACITY` of Linux).
const QUEUE_SIZE: u16 = 32;
/// Reports processed before the thread checks for commands.
const BATCH: usize = 16;
/// The page size of the host, which is that of the guest.
const PAGE_BYTES: usize = 4096;

/// The device.
#[derive(Debug)]
pub(crate) struct Balloon {
    worker: Worker<()>,
}

impl Balloon {
    /// Starts the device's thread.
    pub(crate) fn start(
        counters: Arc<Counters>,
        confine: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Self> {
        Ok(Self { worker: Worker::start("balloon", confine, Reports { counters })? })
    }
}

impl Device for Balloon {
    fn device_type(&self) -> u32 {
        TYPE_BALLOON
    }
    fn features(&self) -> u64 {
        F_REPORTING
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }
    fn config(&self) -> &[u8] {
        // `num_pages` and `actual`: the host never requests pages.
        &[0; 8]
    }
    fn activate(&mut self, activation: Activation) {
        self.worker.activate(activation);
    }
    fn reset(&mut self) -> Vec<ActiveQueue> {
        self.worker.reset()
    }
}

struct Reports {
    counters: Arc<Counters>,
}

/// Returns whole pages of a slice of guest memory to the host; they then read as zeros, or as the
/// saved memory of a restored machine. Returns the number of bytes.
///
/// Mapping anonymous memory over them instead would give zeros everywhere, but each report could
/// add two mappings, and a guest that reports every second page would use up those of the process.
fn give_back(slice: &VolatileSlice<'_>) -> usize {
    let guard = slice.ptr_guard_mut();
    let start = guard.as_ptr();
    let skip = start.addr().next_multiple_of(PAGE_BYTES) - start.addr();
    let len = slice.len().saturating_sub(skip) / PAGE_BYTES * PAGE_BYTES;
    if len == 0 {
        return 0;
    }
    // SAFETY: the range lies inside of a live slice of guest memory, which consists of
    // private mappings that only raw accesses use; dropping its pages makes them zeros or
    // those of the saved file, as if the guest had written that.
    let removed =
        unsafe { libc::madvise(start.wrapping_add(skip).cast(), len, libc::MADV_DONTNEED) };
    if removed == 0 { len } else { 0 }
}

impl Handler for Reports {
    type Request = ();

    fn process(&mut self, active: &mut Activation) -> bool {
        active.serve(REPORTING_QUEUE, BATCH, usize::MAX, |buffers| {
            if let Some(buffers) = buffers {
                let given: usize = buffers.writable.iter().map(give_back).sum();
                self.counters.add(Counter::MemoryBytesReturned, given as u64);
            }
            Some(0)
        })
    }

    fn request(&mut self, (): (), _: Option<&mut Activation>) {}
}

/// Processes rings made from the input, in memory that another thread changes.
pub(crate) fn fuzz(bytes: &[u8]) {
    use crate::devices::fuzz_rings as rings;
    let Ok(counters) = Counters::new() else { return };
    let counters = Arc::new(counters);
    let Some(mut active) = rings::activation(bytes, 3, &counters) else { return };
    let mut device = Reports { counters };
    let memory = active.memory.clone();
    rings::with_concurrent_writer(&memory, bytes, || {
        for _ in 0..4 {
            device.process(&mut active);
        }
    });
}

#[cfg(test)]
mod tests {
    use virtio_queue::{
        desc::{RawDescriptor, split::Descriptor},
        mock::MockSplitQueue,
    };
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::{
        devices::virtio::{Interrupt, event},
        memory,
    };

    #[test]
    fn reported_pages_go_back_to_the_host_and_parts_of_pages_stay() {
        const BYTES: u64 = 1 << 20;
        let memory = memory::create(BYTES).unwrap();
        memory.write_slice(&vec![7; 1 << 19], GuestAddress(1 << 19)).unwrap();
        let before = memory::resident_bytes(&memory);
        let counters = Arc::new(Counters::new().unwrap());
        let rings =
            [0, 1, 2].map(|index| MockSplitQueue::create(&memory, GuestAddress(index * 0x1000), 8));
        let writable = |addr, len| RawDescriptor::from(Descriptor::new(addr, len, 2, 0));
        rings[REPORTING_QUEUE]
            .build_desc_chain(&[writable(1 << 19, 1 << 18), writable((3 << 18) + 100, 5000)])
            .unwrap();
        let mut active = Activation {
            queues: rings
                .iter()
                .map(|ring| ActiveQueue {
                    queue: ring.create_queue().unwrap(),
                    notify: Arc::new(event().unwrap()),
                })
                .collect(),
            memory: memory.clone(),
            interrupt: Interrupt::new(Arc::clone(&counters)).unwrap(),
        };
        let mut reports = Reports { counters: Arc::clone(&counters) };
        assert!(!reports.process(&mut active));
        assert_eq!(rings[REPORTING_QUEUE].used().idx().load(), 1);
        assert_eq!(counters.get(Counter::MemoryBytesReturned), 1 << 18);
        assert!(memory::resident_bytes(&memory) + 400 * 512 < before);
        let byte = |address| -> u8 { memory.read_obj(GuestAddress(address)).unwrap() };
        assert_eq!((byte(1 << 19), byte(3 << 18), byte((3 << 18) + 4096)), (0, 7, 7));
    }
}
