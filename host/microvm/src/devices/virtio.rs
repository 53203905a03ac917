//! The interface between the register file and the devices.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::chain::Buffers;
use crate::counters::{Counter, Counters};

/// `VIRTIO_F_VERSION_1`: the modern interface, the only one offered.
pub(crate) const F_VERSION_1: u64 = 1 << 32;
/// `VIRTIO_RING_F_INDIRECT_DESC`.
pub(crate) const F_INDIRECT_DESC: u64 = 1 << 28;
/// `VIRTIO_RING_F_EVENT_IDX`: avoids most notifications in both directions.
pub(crate) const F_EVENT_IDX: u64 = 1 << 29;

/// A virtio device as the register file sees it.
pub(crate) trait Device: Send + fmt::Debug {
    /// The device type, such as 2 for block.
    fn device_type(&self) -> u32;
    /// The features of this type; the ring features are added by the transport.
    fn features(&self) -> u64;
    /// The largest size of each queue.
    fn queue_sizes(&self) -> &[u16];
    /// The configuration space. Reads beyond its end give zeros.
    fn config(&self) -> &[u8];
    /// Gives the queues to the device's worker.
    fn activate(&mut self, activation: Activation);
    /// Stops the worker, and takes the queues back; on return it no longer accesses guest memory.
    fn reset(&mut self) -> Vec<ActiveQueue>;
}

/// A queue with the event that signals new requests.
#[derive(Debug)]
pub(crate) struct ActiveQueue {
    /// The ring.
    pub(crate) queue: Queue,
    /// Written by KVM when the guest notifies.
    pub(crate) notify: Arc<EventFd>,
}

/// The state of a worker while the driver is active.
#[derive(Debug)]
pub(crate) struct Activation {
    /// Guest RAM.
    pub(crate) memory: GuestMemoryMmap,
    /// The queues in order.
    pub(crate) queues: Vec<ActiveQueue>,
    /// The device's interrupt.
    pub(crate) interrupt: Interrupt,
}

impl Activation {
    /// Serves up to `batch` chains of a queue, each of at most `chain_max_bytes`. `serve`
    /// gets the buffers of a chain, or `None` for a malformed one, and returns the number of
    /// bytes written to it; if it returns `None`, no used descriptor is returned and serving
    /// ends. Returns whether more chains are available.
    pub(crate) fn serve(
        &mut self,
        queue: usize,
        batch: usize,
        chain_max_bytes: usize,
        mut serve: impl FnMut(Option<Buffers<'_>>) -> Option<u32>,
    ) -> bool {
        let Self { memory, queues, interrupt } = self;
        let memory = &*memory;
        let Some(ActiveQueue { queue, .. }) = queues.get_mut(queue) else { return false };
        if interrupt.is_broken() {
            return false;
        }
        for _ in 0..batch {
            let Some(chain) = queue.pop_descriptor_chain(memory) else {
                if interrupt.rest(queue, memory) {
                    return false;
                }
                continue;
            };
            let head = chain.head_index();
            let buffers = Buffers::collect(memory, chain, chain_max_bytes).ok();
            let Some(written) = serve(buffers) else { return false };
            if queue.add_used(memory, head, written).is_err() {
                interrupt.break_device();
                return false;
            }
            interrupt.used(queue, memory);
        }
        true
    }
}

/// Interrupt status bit: buffers were used.
const STATUS_USED: u32 = 1;
/// Interrupt status bit: the configuration, or the device status, changed.
const STATUS_CONFIG: u32 = 2;
/// All bits of the interrupt status.
pub(crate) const STATUS_BITS: u32 = STATUS_USED | STATUS_CONFIG;

#[derive(Debug)]
struct InterruptState {
    status: AtomicU32,
    broken: AtomicBool,
    line: EventFd,
    counters: Arc<Counters>,
}

/// A device's interrupt line with its status register.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<InterruptState>);

impl Interrupt {
    /// Creates the event to register with KVM as an irqfd.
    pub(crate) fn new(counters: Arc<Counters>) -> io::Result<Self> {
        Ok(Self(Arc::new(InterruptState {
            status: AtomicU32::new(0),
            broken: AtomicBool::new(false),
            line: event()?,
            counters,
        })))
    }

    /// The event for `KVM_IRQFD`.
    pub(crate) fn line(&self) -> &EventFd {
        &self.0.line
    }

    fn raise(&self, bits: u32) {
        self.0.status.fetch_or(bits, Ordering::SeqCst);
        self.0.counters.add(Counter::Interrupts, 1);
        // An eventfd write fails only if its count overflows; then the interrupt is already
        // pending.
        let _ = self.0.line.write(1);
    }

    /// Notifies the driver of used buffers, unless it has suppressed that.
    pub(crate) fn used(&self, queue: &mut Queue, memory: &GuestMemoryMmap) {
        match queue.needs_notification(memory) {
            Ok(false) => {}
            Ok(true) | Err(_) => self.raise(STATUS_USED),
        }
    }

    /// Notifies the driver regardless of suppression.
    pub(crate) fn used_always(&self) {
        self.raise(STATUS_USED);
    }

    /// Called when the ring is empty: enables notifications and checks once more, since the guest
    /// may have added a request in between without notifying. Returns whether the device may wait;
    /// otherwise it must check the ring again.
    ///
    /// An index further ahead than the ring length would cause endless work without requests, and
    /// breaks the device.
    pub(crate) fn rest(&self, queue: &mut Queue, memory: &GuestMemoryMmap) -> bool {
        match queue.enable_notification(memory) {
            Ok(false) => true,
            Ok(true) if has_work(queue, memory) => false,
            Ok(true) | Err(_) => {
                self.break_device();
                true
            }
        }
    }

    /// Marks the device as broken: the driver made an unrecoverable error, and must reset it.
    pub(crate) fn break_device(&self) {
        self.0.broken.store(true, Ordering::SeqCst);
        self.raise(STATUS_CONFIG);
    }

    /// Whether [`Self::break_device`] was called since the last reset.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::SeqCst)
    }

    /// The status register.
    pub(crate) fn status(&self) -> u32 {
        self.0.status.load(Ordering::SeqCst)
    }

    /// The driver's acknowledgement.
    pub(crate) fn acknowledge(&self, bits: u32) {
        self.0.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// The state of a saved device. An interrupt that the driver has not acknowledged is raised
    /// again: the first one may have been on its way while the machine was saved, and the driver
    /// tolerates a second one.
    pub(crate) fn restore(&self, status: u32, broken: bool) {
        self.0.broken.store(broken, Ordering::SeqCst);
        if status != 0 {
            self.raise(status);
        }
    }

    /// The state after a reset of the device.
    pub(crate) fn clear(&self) {
        self.0.status.store(0, Ordering::SeqCst);
        self.0.broken.store(false, Ordering::SeqCst);
    }
}

fn has_work(queue: &Queue, memory: &GuestMemoryMmap) -> bool {
    queue.avail_idx(memory, Ordering::Acquire).is_ok_and(|index| {
        let ahead = index.0.wrapping_sub(queue.next_avail());
        ahead != 0 && ahead <= queue.size()
    })
}

/// A non-blocking event.
pub(crate) fn event() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

#[cfg(test)]
mod tests {
    use virtio_queue::{
        desc::{RawDescriptor, split::Descriptor},
        mock::MockSplitQueue,
    };
    use vm_memory::GuestAddress;

    use super::*;

    #[test]
    fn a_request_that_came_in_between_is_not_slept_over() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let ring = MockSplitQueue::new(&memory, 8);
        let mut queue: Queue = ring.create_queue().unwrap();
        queue.set_event_idx(true);
        let interrupt = Interrupt::new(Arc::new(Counters::new().unwrap())).unwrap();
        assert!(interrupt.rest(&mut queue, &memory));
        let buffer = RawDescriptor::from(Descriptor::new(0x8000, 16, 2, 0));
        ring.build_desc_chain(&[buffer]).unwrap();
        assert!(!interrupt.rest(&mut queue, &memory), "there is something by now");
        assert!(queue.pop_descriptor_chain(&memory).is_some());
        assert!(interrupt.rest(&mut queue, &memory));
        assert!(!interrupt.is_broken());
        ring.avail().idx().store(1000);
        assert!(interrupt.rest(&mut queue, &memory));
        assert!(interrupt.is_broken());
    }
}
