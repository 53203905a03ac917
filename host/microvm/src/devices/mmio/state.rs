//! The state of a register file while its machine is saved.
//!
//! A device without a driver may be another one in the restored machine, with another size or
//! serial: its driver is bound anew and asks for everything again. A device with a driver must
//! offer what the driver has accepted.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT};

use super::{STATUS_DRIVER_OK, STATUS_FEATURES_OK, STATUS_WRITABLE, Transport, fresh_queues};
use crate::{bounded::at_most, devices::virtio::STATUS_BITS};

/// Maximum queues of a device.
const QUEUES_MAX: usize = 8;

/// Why a saved register file cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransportError {
    /// The slot has a device of another type or with other queues.
    #[error("the slot has another device")]
    OtherDevice,
    /// The driver uses features that the device does not offer.
    #[error("the device lacks features that its driver uses")]
    Features,
    /// A register has a value that no driver can set.
    #[error("a register has an impossible value")]
    Register,
    /// A queue is malformed, or outside of guest memory.
    #[error("a queue is invalid")]
    Queue,
}

/// A queue: its configuration, and the positions of the device in its rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ring {
    max_size: u16,
    size: u16,
    ready: bool,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

impl Ring {
    fn of(queue: &Queue) -> Self {
        let state = queue.state();
        Self {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            event_idx: state.event_idx_enabled,
            next_avail: state.next_avail,
            next_used: state.next_used,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        }
    }

    fn queue(&self) -> Result<Queue, TransportError> {
        let state = QueueState {
            max_size: self.max_size,
            next_avail: self.next_avail,
            next_used: self.next_used,
            event_idx_enabled: self.event_idx,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        };
        Queue::try_from(state).map_err(|_| TransportError::Queue)
    }
}

/// A register file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransportState {
    device_type: u32,
    status: u32,
    interrupt_status: u32,
    broken: bool,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    /// Whether the worker has the queues.
    running: bool,
    #[serde(deserialize_with = "at_most::<_, _, QUEUES_MAX>")]
    queues: Vec<Ring>,
}

impl Transport {
    /// Takes the queues from the worker, which no longer accesses guest memory, and returns the
    /// state. The device is not usable afterwards.
    pub(crate) fn save(&mut self) -> TransportState {
        let running = std::mem::take(&mut self.running);
        let queues: Vec<Ring> = if running {
            self.device.reset().iter().map(|active| Ring::of(&active.queue)).collect()
        } else {
            self.queues.iter().map(Ring::of).collect()
        };
        TransportState {
            device_type: self.device.device_type(),
            status: self.status,
            interrupt_status: self.interrupt.status(),
            broken: self.interrupt.is_broken(),
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            running,
            queues,
        }
    }

    /// Restores the state of a saved register file in one that no driver has used. If the driver
    /// was active, the worker gets the queues, and looks at once for requests in them.
    pub(crate) fn restore(&mut self, state: &TransportState) -> Result<(), TransportError> {
        let fresh = fresh_queues(self.device.as_ref()).map_err(|_| TransportError::Queue)?;
        if state.device_type != self.device.device_type() || state.queues.len() != fresh.len() {
            return Err(TransportError::OtherDevice);
        }
        let agreed = state.status & STATUS_FEATURES_OK != 0;
        let driver_ok = state.status & STATUS_DRIVER_OK != 0;
        if state.status & !STATUS_WRITABLE != 0
            || state.interrupt_status & !STATUS_BITS != 0
            || driver_ok && !agreed
            || state.running && !driver_ok
        {
            return Err(TransportError::Register);
        }
        let queues: Vec<Queue> = state.queues.iter().map(Ring::queue).collect::<Result<_, _>>()?;
        if queues.iter().zip(&fresh).any(|(saved, fresh)| saved.max_size() != fresh.max_size()) {
            return Err(TransportError::OtherDevice);
        }
        if state.running && !queues.iter().all(|queue| queue.is_valid(&self.memory)) {
            return Err(TransportError::Queue);
        }
        self.driver_features = state.driver_features;
        if agreed && !self.features_agree() {
            return Err(TransportError::Features);
        }
        self.status = state.status;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.queue_sel = state.queue_sel;
        self.interrupt.restore(state.interrupt_status, state.broken);
        if state.running {
            self.activate(queues);
        } else {
            self.queues = queues;
        }
        Ok(())
    }
}
