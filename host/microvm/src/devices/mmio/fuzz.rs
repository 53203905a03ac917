//! The body of the fuzz target for register files.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{Transport, state::TransportState};
use crate::{
    counters::Counters,
    devices::virtio::{Activation, ActiveQueue, Device, Interrupt},
};

/// Size of guest memory, which may contain rings.
const MEMORY_BYTES: usize = 0x2_0000;
/// One access: direction and width, offset, value.
const ACCESS_BYTES: usize = 7;
/// Range of offsets: the register file, and a little beyond.
const OFFSETS: u64 = 0x220;

/// A device that only checks its activation.
#[derive(Debug)]
struct Checker {
    running: bool,
}

impl Device for Checker {
    fn device_type(&self) -> u32 {
        2
    }
    fn features(&self) -> u64 {
        0x6000
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 16]
    }
    fn config(&self) -> &[u8] {
        &[1, 2, 3, 4, 5]
    }
    fn activate(&mut self, activation: Activation) {
        use virtio_queue::QueueT;
        assert!(!self.running, "started twice without a reset");
        self.running = true;
        for active in &activation.queues {
            assert!(active.queue.is_valid(&activation.memory), "a ring that is not in memory");
        }
    }
    fn reset(&mut self) -> Vec<ActiveQueue> {
        assert!(self.running, "reset without a start");
        self.running = false;
        Vec::new()
    }
}

fn transport() -> Option<Transport> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).ok()?;
    let interrupt = Interrupt::new(Arc::new(Counters::new().ok()?)).ok()?;
    Transport::new(Box::new(Checker { running: false }), memory, interrupt).ok()
}

/// Restores a state, which is refused or accepted as a whole.
pub(crate) fn restore(state: &TransportState) {
    let Some(mut transport) = transport() else { return };
    if transport.restore(state).is_ok() {
        transport.shut_down();
    }
}

/// Performs the accesses of the input.
pub(crate) fn run(bytes: &[u8]) {
    let Some(mut transport) = transport() else { return };
    for access in bytes.chunks_exact(ACCESS_BYTES) {
        let offset = u64::from(u16::from_le_bytes([access[1], access[2]])) % OFFSETS;
        // Drivers use aligned words; one in four accesses is different.
        let (offset, width) = match access[0] >> 1 & 3 {
            0 => (offset, usize::from(access[0] >> 3 & 7) + 1),
            _ => (offset & !3, 4),
        };
        let mut value = [0; 8];
        value[..4].copy_from_slice(&access[3..7]);
        if access[0] & 1 == 0 {
            transport.write(offset, &value[..width]);
        } else {
            transport.read(offset, &mut value[..width]);
        }
    }
    transport.shut_down();
}
