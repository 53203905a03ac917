//! The virtio-mmio register file, version 2 (virtio 1.2, section 4.2.2).
//!
//! ```text
//!          ACKNOWLEDGE, DRIVER        FEATURES_OK           DRIVER_OK
//! reset ─────────────────────► known ────────────► agreed ───────────► running
//!   ▲                                 only a subset         every queue valid:
//!   └──────── status := 0 ───────────────────────────────── worker gets them
//! ```
//!
//! The guest may write anything in any order. A write that the state does not permit is ignored.
//! Rings that are invalid at DRIVER_OK make the device report "needs reset", and its worker never
//! gets them.

pub(crate) mod fuzz;
pub(crate) mod state;

use std::{io, sync::Arc};

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::virtio::{
    Activation, ActiveQueue, Device, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Interrupt, event,
};

/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
/// The modern register layout.
const VERSION: u32 = 2;
/// "VBLD"; drivers do not check it.
const VENDOR: u32 = 0x444c_4256;

const REG_MAGIC: u64 = 0x000;
const REG_VERSION: u64 = 0x004;
const REG_DEVICE_ID: u64 = 0x008;
const REG_VENDOR_ID: u64 = 0x00c;
const REG_DEVICE_FEATURES: u64 = 0x010;
const REG_DEVICE_FEATURES_SEL: u64 = 0x014;
const REG_DRIVER_FEATURES: u64 = 0x020;
const REG_DRIVER_FEATURES_SEL: u64 = 0x024;
const REG_QUEUE_SEL: u64 = 0x030;
const REG_QUEUE_NUM_MAX: u64 = 0x034;
const REG_QUEUE_NUM: u64 = 0x038;
const REG_QUEUE_READY: u64 = 0x044;
/// The notify register, whose writes KVM's ioeventfd matches.
pub(crate) const REG_QUEUE_NOTIFY: u64 = 0x050;
const REG_INTERRUPT_STATUS: u64 = 0x060;
const REG_INTERRUPT_ACK: u64 = 0x064;
const REG_STATUS: u64 = 0x070;
const REG_QUEUE_DESC_LOW: u64 = 0x080;
const REG_QUEUE_DESC_HIGH: u64 = 0x084;
const REG_QUEUE_DRIVER_LOW: u64 = 0x090;
const REG_QUEUE_DRIVER_HIGH: u64 = 0x094;
const REG_QUEUE_DEVICE_LOW: u64 = 0x0a0;
const REG_QUEUE_DEVICE_HIGH: u64 = 0x0a4;
const REG_CONFIG_GENERATION: u64 = 0x0fc;
const REG_CONFIG: u64 = 0x100;

const STATUS_ACKNOWLEDGE: u32 = 1;
const STATUS_DRIVER: u32 = 2;
const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_NEEDS_RESET: u32 = 0x40;
const STATUS_FAILED: u32 = 0x80;
/// The status bits that a driver may write.
const STATUS_WRITABLE: u32 =
    STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK | STATUS_FAILED;

/// A device with its register file.
#[derive(Debug)]
pub(crate) struct Transport {
    device: Box<dyn Device>,
    memory: GuestMemoryMmap,
    interrupt: Interrupt,
    queues: Vec<Queue>,
    notify: Vec<Arc<EventFd>>,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    running: bool,
}

impl Transport {
    /// Wraps a device.
    pub(crate) fn new(
        device: Box<dyn Device>,
        memory: GuestMemoryMmap,
        interrupt: Interrupt,
    ) -> io::Result<Self> {
        let queues = fresh_queues(device.as_ref())?;
        let notify = queues.iter().map(|_| event().map(Arc::new)).collect::<io::Result<_>>()?;
        Ok(Self {
            device,
            memory,
            interrupt,
            queues,
            notify,
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            running: false,
        })
    }

    /// The notification events in queue order, for `KVM_IOEVENTFD`.
    pub(crate) fn notify_events(&self) -> &[Arc<EventFd>] {
        &self.notify
    }

    fn offered(&self) -> u64 {
        self.device.features() | F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    /// The selected queue, while the driver may still configure it.
    fn selected_mut(&mut self) -> Option<&mut Queue> {
        let set_up = self.status & STATUS_FEATURES_OK != 0 && !self.running;
        let index = usize::try_from(self.queue_sel).ok()?;
        self.queues.get_mut(index).filter(|_| set_up)
    }

    /// Handles a read by the guest. Registers are read as 32 bits; the configuration space in any
    /// width.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(start) = offset.checked_sub(REG_CONFIG) {
            let config = self.device.config();
            for (index, byte) in (start..).zip(data.iter_mut()) {
                let value = usize::try_from(index).ok().and_then(|index| config.get(index));
                *byte = value.copied().unwrap_or(0);
            }
            return;
        }
        let value = if data.len() == 4 { self.register(offset) } else { 0 };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let half = |features: u64, select: u32| match select {
            0 => low(features),
            1 => low(features >> 32),
            _ => 0,
        };
        match offset {
            REG_MAGIC => MAGIC,
            REG_VERSION => VERSION,
            REG_DEVICE_ID => self.device.device_type(),
            REG_VENDOR_ID => VENDOR,
            REG_DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            REG_QUEUE_NUM_MAX => self.selected().map_or(0, |queue| queue.max_size().into()),
            REG_QUEUE_READY => self.selected().map_or(0, |queue| queue.ready().into()),
            REG_INTERRUPT_STATUS => self.interrupt.status(),
            REG_STATUS if self.interrupt.is_broken() => self.status | STATUS_NEEDS_RESET,
            REG_STATUS => self.status,
            // The configuration of these devices never changes: generation 0.
            REG_CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    /// Handles a write by the guest.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        match offset {
            REG_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            REG_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            REG_DRIVER_FEATURES => self.set_driver_features(value),
            REG_QUEUE_SEL => self.queue_sel = value,
            REG_QUEUE_NOTIFY => self.notify(value),
            REG_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            REG_STATUS => self.set_status(value),
            _ => self.set_queue(offset, value),
        }
    }

    fn set_driver_features(&mut self, value: u32) {
        if self.status & STATUS_FEATURES_OK != 0 {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    /// Handles a notification that KVM's ioeventfd did not match.
    fn notify(&self, queue: u32) {
        let event = usize::try_from(queue).ok().and_then(|index| self.notify.get(index));
        if let Some(event) = event {
            // Fails only if the count overflows; then the event is already signalled.
            let _ = event.write(1);
        }
    }

    fn set_queue(&mut self, offset: u64, value: u32) {
        let event_idx = self.driver_features & F_EVENT_IDX != 0;
        let Some(queue) = self.selected_mut() else { return };
        match offset {
            REG_QUEUE_NUM => {
                // The queue refuses a size that is not a power of two, or too large, so it is
                // invalid when the driver enables it.
                queue.set_size(u16::try_from(value).unwrap_or(0));
            }
            REG_QUEUE_READY => {
                queue.set_event_idx(event_idx);
                queue.set_ready(value == 1);
            }
            REG_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            REG_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            REG_QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            REG_QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            REG_QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            REG_QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let added = value & STATUS_WRITABLE & !self.status;
        self.status |= added & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
        if added & STATUS_FEATURES_OK != 0 && self.features_agree() {
            self.status |= STATUS_FEATURES_OK;
        }
        let agreed = self.status & STATUS_FEATURES_OK != 0;
        if added & STATUS_DRIVER_OK != 0 && agreed && self.status & STATUS_FAILED == 0 {
            self.status |= STATUS_DRIVER_OK;
            self.start();
        }
    }

    fn features_agree(&self) -> bool {
        self.driver_features & !self.offered() == 0 && self.driver_features & F_VERSION_1 != 0
    }

    fn start(&mut self) {
        if !self.queues.iter().all(|queue| queue.is_valid(&self.memory)) {
            return self.interrupt.break_device();
        }
        let Ok(fresh) = fresh_queues(self.device.as_ref()) else {
            return self.interrupt.break_device();
        };
        let queues = std::mem::replace(&mut self.queues, fresh);
        self.activate(queues);
    }

    /// Gives valid queues to the worker.
    fn activate(&mut self, queues: Vec<Queue>) {
        let queues = queues
            .into_iter()
            .zip(&self.notify)
            .map(|(queue, notify)| ActiveQueue { queue, notify: Arc::clone(notify) })
            .collect();
        self.device.activate(Activation {
            memory: self.memory.clone(),
            queues,
            interrupt: self.interrupt.clone(),
        });
        self.running = true;
    }

    /// Removes the device permanently: its thread ends, which also makes its image consistent. An
    /// empty slot remains.
    pub(crate) fn shut_down(&mut self) {
        self.reset();
        self.device = Box::new(Empty);
    }

    fn reset(&mut self) {
        if self.running {
            // The driver sets the rings up anew.
            drop(self.device.reset());
        }
        for queue in &mut self.queues {
            queue.reset();
        }
        for event in &self.notify {
            // Consumes a notification of the driver that is being reset.
            let _ = event.read();
        }
        self.interrupt.clear();
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.running = false;
    }
}

/// A slot whose device was removed; no CPU is running any more.
#[derive(Debug)]
struct Empty;

impl Device for Empty {
    fn device_type(&self) -> u32 {
        0
    }
    fn features(&self) -> u64 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[]
    }
    fn config(&self) -> &[u8] {
        &[]
    }
    fn activate(&mut self, _: Activation) {}
    fn reset(&mut self) -> Vec<ActiveQueue> {
        Vec::new()
    }
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn fresh_queues(device: &dyn Device) -> io::Result<Vec<Queue>> {
    let queue = |size: &u16| Queue::new(*size).map_err(|e| io::Error::other(e.to_string()));
    device.queue_sizes().iter().map(queue).collect()
}

#[cfg(test)]
mod tests;
