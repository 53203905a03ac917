//! virtio-rng: random numbers from the host's kernel.
//!
//! Without this device, a guest takes its first random numbers from the CPU, which is slow under
//! emulation and missing in places.

use std::{io, sync::Arc};

use super::{
    chain::{copy_in, part},
    virtio::{Activation, ActiveQueue, Device},
    worker::{Handler, Worker},
};
use crate::counters::{Counter, Counters};

/// The device type.
const TYPE_RNG: u32 = 4;
/// Queue size; the driver has one request in flight.
const QUEUE_SIZE: u16 = 8;
/// Maximum bytes per request, whatever its size: the kernel asks for this many.
const GIVE_MAX_BYTES: usize = 256;
/// Maximum length of a chain in bytes.
const CHAIN_MAX_BYTES: usize = 1 << 20;
/// Requests processed before the thread checks for commands.
const BATCH: usize = 16;

/// The device.
#[derive(Debug)]
pub(crate) struct Rng {
    worker: Worker<()>,
}

impl Rng {
    /// Starts the device's thread.
    pub(crate) fn start(
        counters: Arc<Counters>,
        confine: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Self> {
        Ok(Self { worker: Worker::start("rng", confine, Source { counters })? })
    }
}

impl Device for Rng {
    fn device_type(&self) -> u32 {
        TYPE_RNG
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }
    fn config(&self) -> &[u8] {
        &[]
    }
    fn activate(&mut self, activation: Activation) {
        self.worker.activate(activation);
    }
    fn reset(&mut self) -> Vec<ActiveQueue> {
        self.worker.reset()
    }
}

struct Source {
    counters: Arc<Counters>,
}

/// Gets random bytes; fewer than requested if the call is interrupted.
fn random(into: &mut [u8]) -> usize {
    // SAFETY: the pointer and length describe a live, writable slice.
    let got = unsafe { libc::getrandom(into.as_mut_ptr().cast(), into.len(), 0) };
    usize::try_from(got).unwrap_or(0)
}

impl Handler for Source {
    type Request = ();

    fn process(&mut self, active: &mut Activation) -> bool {
        active.serve(0, BATCH, CHAIN_MAX_BYTES, |buffers| {
            let mut given = 0;
            if let Some(buffers) = buffers {
                let mut bytes = [0; GIVE_MAX_BYTES];
                let got = random(&mut bytes);
                given = copy_in(&part(&buffers.writable, 0, got), &bytes[..got]);
            }
            self.counters.add(Counter::RngBytes, given as u64);
            Some(u32::try_from(given).unwrap_or(0))
        })
    }

    fn request(&mut self, (): (), _: Option<&mut Activation>) {}
}

/// Processes rings made from the input, in memory that another thread changes.
pub(crate) fn fuzz(bytes: &[u8]) {
    use crate::devices::fuzz_rings as rings;
    let Ok(counters) = Counters::new() else { return };
    let counters = Arc::new(counters);
    let Some(mut active) = rings::activation(bytes, 1, &counters) else { return };
    let mut device = Source { counters };
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
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;
    use crate::devices::virtio::{Interrupt, event};

    #[test]
    fn a_request_is_filled_and_bounded() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let counters = Arc::new(Counters::new().unwrap());
        let ring = MockSplitQueue::new(&memory, 8);
        let writable = |addr, len| RawDescriptor::from(Descriptor::new(addr, len, 2, 0));
        ring.build_desc_chain(&[writable(0x4000, 64)]).unwrap();
        let mut active = Activation {
            queues: vec![ActiveQueue {
                queue: ring.create_queue().unwrap(),
                notify: Arc::new(event().unwrap()),
            }],
            memory: memory.clone(),
            interrupt: Interrupt::new(Arc::clone(&counters)).unwrap(),
        };
        let mut source = Source { counters: Arc::clone(&counters) };
        assert!(!source.process(&mut active));
        assert_eq!(ring.used().idx().load(), 1);
        assert_eq!(ring.used().ring().ref_at(0).unwrap().load().len(), 64);
        let mut bytes = [0u8; 64];
        memory.read_slice(&mut bytes, GuestAddress(0x4000)).unwrap();
        assert_ne!(bytes, [0; 64]);
        assert_eq!(counters.get(Counter::RngBytes), 64);
        assert!(active.interrupt.line().read().is_ok());
    }
}
