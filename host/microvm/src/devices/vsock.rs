//! virtio-vsock: the mux core on its own thread.

pub(crate) mod fuzz;

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::Instant,
};

use vsock_mux::{Connector, DEVICE_ID, Mux, QUEUE_SIZE, RX_QUEUE, TX_QUEUE};

use super::{
    virtio::{Activation, ActiveQueue, Device},
    worker::{Handler, Worker},
};
use crate::counters::{Counter, Counters};

/// Calls of the mux before the thread checks for commands.
const BATCH: usize = 16;

/// The device.
#[derive(Debug)]
pub(crate) struct Vsock {
    config: [u8; 8],
    worker: Worker<()>,
}

impl Vsock {
    /// Starts the device's thread with a mux.
    pub(crate) fn start(
        (mux, connector): (Mux, Connector),
        counters: Arc<Counters>,
        confine: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Self> {
        let config = mux.config_space();
        let thread = MuxThread { mux, connector, counters, started: Instant::now() };
        Ok(Self { config, worker: Worker::start("vsock", confine, thread)? })
    }
}

impl Device for Vsock {
    fn device_type(&self) -> u32 {
        DEVICE_ID
    }
    fn features(&self) -> u64 {
        // The transport offers the ring features for every device.
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; vsock_mux::QUEUES]
    }
    fn config(&self) -> &[u8] {
        &self.config
    }
    fn activate(&mut self, activation: Activation) {
        self.worker.activate(activation);
    }
    fn reset(&mut self) -> Vec<ActiveQueue> {
        self.worker.reset()
    }
}

struct MuxThread {
    mux: Mux,
    connector: Connector,
    counters: Arc<Counters>,
    started: Instant,
}

impl Handler for MuxThread {
    type Request = ();

    fn activated(&mut self, _: &mut Activation) {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counters.set_once(Counter::MicrosecondsToVsock, elapsed);
        self.counters.set_once(Counter::ExitsToVsock, self.counters.exits());
    }

    fn process(&mut self, active: &mut Activation) -> bool {
        let Activation { memory, queues, interrupt, .. } = active;
        let Ok([rx, tx]) = queues.get_disjoint_mut([RX_QUEUE, TX_QUEUE]) else { return false };
        let (ActiveQueue { queue: rx, .. }, ActiveQueue { queue: tx, .. }) = (rx, tx);
        for _ in 0..BATCH {
            let progress = self.mux.process(&*memory, rx, tx);
            if progress.signal_rx || progress.signal_tx {
                interrupt.used_always();
            }
            if !progress.again {
                self.counters.set_vsock(&self.connector.stats());
                return false;
            }
        }
        self.counters.set_vsock(&self.connector.stats());
        true
    }

    fn request(&mut self, (): (), _: Option<&mut Activation>) {}

    fn deactivated(&mut self) {
        self.mux.reset();
    }

    fn event(&self) -> Option<RawFd> {
        Some(self.mux.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_queue::{
        desc::{RawDescriptor, split::Descriptor},
        mock::MockSplitQueue,
    };
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
    use vsock_mux::GUEST_CID;

    use super::*;
    use crate::devices::virtio::{Interrupt, event};

    const RING_BYTES: u64 = 0x1000;
    const DATA: u64 = 0x8000;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2_0000)]).unwrap()
    }

    fn thread() -> MuxThread {
        let (mux, connector) = Mux::new(GUEST_CID, Arc::new(|_| None)).unwrap();
        MuxThread {
            mux,
            connector,
            counters: Arc::new(Counters::new().unwrap()),
            started: Instant::now(),
        }
    }

    fn rings(memory: &GuestMemoryMmap) -> [MockSplitQueue<'_, GuestMemoryMmap>; 3] {
        [0, 1, 2].map(|index| MockSplitQueue::create(memory, GuestAddress(index * RING_BYTES), 16))
    }

    fn active(
        memory: &GuestMemoryMmap,
        rings: &[MockSplitQueue<'_, GuestMemoryMmap>; 3],
        counters: &Arc<Counters>,
    ) -> Activation {
        let queue = |ring: &MockSplitQueue<'_, GuestMemoryMmap>| ActiveQueue {
            queue: ring.create_queue().unwrap(),
            notify: Arc::new(event().unwrap()),
        };
        Activation {
            queues: rings.iter().map(queue).collect(),
            memory: memory.clone(),
            interrupt: Interrupt::new(Arc::clone(counters)).unwrap(),
        }
    }

    /// A header as the guest writes it, to host port `port`.
    fn packet(op: u16, port: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(GUEST_CID.to_le_bytes());
        bytes.extend(vsock_mux::HOST_CID.to_le_bytes());
        bytes.extend(4000u32.to_le_bytes());
        bytes.extend(port.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(op.to_le_bytes());
        bytes.extend([0; 12]);
        bytes
    }

    #[test]
    fn a_refused_connection_is_reset_and_the_guest_interrupted() {
        const OP_REQUEST: u16 = 1;
        const OP_RST: u16 = 3;
        let memory = memory();
        let rings = rings(&memory);
        let mut thread = thread();
        let mut active = active(&memory, &rings, &Arc::clone(&thread.counters));
        memory.write_slice(&packet(OP_REQUEST, 99), GuestAddress(DATA)).unwrap();
        let from_guest = RawDescriptor::from(Descriptor::new(DATA, 44, 0, 0));
        let to_guest = RawDescriptor::from(Descriptor::new(DATA + 0x1000, 0x1000, 2, 0));
        rings[TX_QUEUE].build_desc_chain(&[from_guest]).unwrap();
        rings[RX_QUEUE].build_desc_chain(&[to_guest]).unwrap();
        thread.activated(&mut active);
        assert!(!thread.process(&mut active));
        assert_eq!(rings[TX_QUEUE].used().idx().load(), 1);
        assert_eq!(rings[RX_QUEUE].used().idx().load(), 1);
        let op: u16 = memory.read_obj(GuestAddress(DATA + 0x1000 + 30)).unwrap();
        assert_eq!(op, OP_RST);
        assert!(active.interrupt.line().read().is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Random rings do not panic or occupy the thread.
        #[test]
        fn random_chains_are_survived(
            descriptors in prop::collection::vec(
                (0u64..0x2_4000, prop_oneof![0u32..0x400, any::<u32>()], 0u16..8, 0u16..20), 32),
            noise in prop::collection::vec(any::<u8>(), 512),
        ) {
            let memory = memory();
            let rings = rings(&memory);
            for place in (DATA..0x2_0000).step_by(512) {
                memory.write_slice(&noise, GuestAddress(place)).unwrap();
            }
            for (index, (addr, len, flags, next)) in (0u16..).zip(&descriptors) {
                let descriptor = RawDescriptor::from(Descriptor::new(*addr, *len, *flags, *next));
                let ring = &rings[usize::from(index) / 16];
                ring.desc_table().store(index % 16, descriptor).unwrap();
                ring.avail().ring().ref_at(usize::from(index % 16)).unwrap().store(*next);
            }
            for ring in &rings {
                ring.avail().idx().store(16);
            }
            let mut thread = thread();
            let mut active = active(&memory, &rings, &Arc::clone(&thread.counters));
            for _ in 0..8 {
                thread.process(&mut active);
            }
        }
    }
}
