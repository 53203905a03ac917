//! The vhost-user backend: the mux core behind the vhost-user protocol.

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vhost::vhost_user::{
    Error as Hangup, Listener,
    message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures},
};
use vhost_user_backend::{Error, VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
    eventfd::EventFd,
};
use vsock_mux::{Connector, Mux, RX_QUEUE, TX_QUEUE};

use crate::{counters::Counters, devices::virtio::event};

/// RX and TX; QEMU handles the event queue itself.
const VHOST_QUEUES: usize = 2;
/// Maximum queue size: QEMU 10 uses 1,024 entries, older versions 128.
const QUEUE_MAX_SIZE: u16 = 1024;
/// The event number of the mux's descriptor. Queues have 0 and 1; the library uses 2 itself.
const HOST_EVENT: u16 = 3;
/// The event number by which the device signals itself that there is more work.
const AGAIN_EVENT: u16 = 4;
/// Calls of the mux, of 128 packets each, before the thread releases the device: a guest that keeps
/// its rings full would otherwise hold the lock forever, and block the thread that handles QEMU's
/// messages. Half of the largest ring.
const BATCH: usize = 4;
type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Vring = VringMutex<Memory>;

/// The mux, with its state while the guest has no queues yet.
struct Device {
    mux: Mux,
    memory: Memory,
    idle_rx: Queue,
    idle_tx: Queue,
}

/// The callbacks of the library.
#[derive(Clone)]
pub(super) struct Backend {
    device: Arc<Mutex<Device>>,
    connector: Connector,
    counters: Arc<Counters>,
    /// Readable while there is more work.
    again: Arc<EventFd>,
    /// The mux's configuration space, which never changes.
    config: [u8; 8],
}

impl Backend {
    /// A panic while the lock was held would have been in the mux, which does not panic; the
    /// connections are still consistent.
    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        VHOST_QUEUES
    }

    fn max_queue_size(&self) -> usize {
        usize::from(QUEUE_MAX_SIZE)
    }

    fn features(&self) -> u64 {
        vsock_mux::FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::CONFIG
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The library configures the queues itself.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let range = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(size).ok())
            .and_then(|(offset, size)| Some(offset..offset.checked_add(size)?));
        range.and_then(|range| self.config.get(range)).unwrap_or_default().to_vec()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.device().memory = memory;
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::CLOEXEC | EventFlag::NONBLOCK).ok()
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        // The guest's driver was reset, or its machine is stopping.
        if usize::try_from(queue) == Ok(RX_QUEUE) {
            self.device().mux.reset();
        }
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        let (Some(rx), Some(tx)) = (vrings.get(RX_QUEUE), vrings.get(TX_QUEUE)) else {
            return Err(io::Error::other("the vsock device needs two queues"));
        };
        if event == AGAIN_EVENT {
            // Fails only if it is not signalled.
            let _ = self.again.read();
        }
        let mut rx = rx.get_mut();
        let mut tx = tx.get_mut();
        let mut device = self.device();
        let Device { mux, memory, idle_rx, idle_tx } = &mut *device;
        let memory = memory.memory();
        if !(rx.is_enabled() && tx.is_enabled()) {
            // The mux's descriptor stays readable until the mux has processed it.
            mux.process(&*memory, idle_rx, idle_tx);
            return Ok(());
        }
        for _ in 0..BATCH {
            let progress = mux.process(&*memory, rx.get_queue_mut(), tx.get_queue_mut());
            if progress.signal_rx {
                rx.signal_used_queue()?;
            }
            if progress.signal_tx {
                tx.signal_used_queue()?;
            }
            if !progress.again {
                self.counters.set_vsock(&self.connector.stats());
                return Ok(());
            }
        }
        self.counters.set_vsock(&self.connector.stats());
        self.again.write(1)
    }
}

/// The device on its threads.
pub(super) type Daemon = VhostUserDaemon<Backend>;

/// The device before it is connected.
fn backend(
    (mux, connector): (Mux, Connector),
    memory: Memory,
    counters: Arc<Counters>,
) -> io::Result<Backend> {
    let config = mux.config_space();
    let again = Arc::new(event()?);
    let idle = || Queue::new(QUEUE_MAX_SIZE).map_err(|e| io::Error::other(e.to_string()));
    let device = Device { mux, memory, idle_rx: idle()?, idle_tx: idle()? };
    Ok(Backend { device: Arc::new(Mutex::new(device)), connector, counters, again, config })
}

/// Starts the device with the connection pending on the socket.
pub(super) fn start(
    (mux, connector): (Mux, Connector),
    counters: Arc<Counters>,
    listener: UnixListener,
) -> io::Result<Daemon> {
    let memory = Memory::new(GuestMemoryMmap::new());
    let mux_fd = mux.as_raw_fd();
    let backend = backend((mux, connector), memory.clone(), counters)?;
    let again = backend.again.as_raw_fd();
    let failed = |what: Error| io::Error::other(what.to_string());
    let mut daemon =
        VhostUserDaemon::new("vhost-vsock".to_owned(), backend, memory).map_err(failed)?;
    daemon.start(&mut Listener::from(listener)).map_err(failed)?;
    for handler in daemon.get_epoll_handlers() {
        for (fd, event) in [(mux_fd, HOST_EVENT), (again, AGAIN_EVENT)] {
            handler.register_listener(fd, EventSet::IN, u64::from(event))?;
        }
    }
    Ok(daemon)
}

/// Waits until the other VMM has closed the connection; fails on a protocol error.
pub(super) fn wait(mut daemon: Daemon) -> Result<(), String> {
    match daemon.wait() {
        Ok(()) | Err(Error::HandleRequest(Hangup::Disconnected | Hangup::PartialMessage)) => Ok(()),
        Err(cause) => Err(cause.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use virtio_queue::{
        desc::{RawDescriptor, split::Descriptor},
        mock::MockSplitQueue,
    };
    use vm_memory::GuestAddress;
    use vsock_mux::GUEST_CID;

    use super::*;

    /// More entries than the mux processes per call.
    const RING_SIZE: u16 = 1024;
    const RINGS: [u64; VHOST_QUEUES] = [0, 0x1_0000];
    const DATA: u64 = 0x2_0000;

    fn vring(memory: &Memory, ring: &MockSplitQueue<'_, GuestMemoryMmap>) -> Vring {
        let vring = Vring::new(memory.clone(), RING_SIZE).unwrap();
        vring.set_queue_size(RING_SIZE);
        let (descriptors, avail, used) =
            (ring.desc_table_addr(), ring.avail_addr(), ring.used_addr());
        vring.set_queue_info(descriptors.0, avail.0, used.0).unwrap();
        vring.set_queue_ready(true);
        vring.set_enabled(true);
        vring
    }

    #[test]
    fn a_guest_that_keeps_its_ring_full_does_not_keep_the_device() {
        let plain = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4_0000)]).unwrap();
        let memory = Memory::new(plain.clone());
        let rings = RINGS.map(|at| MockSplitQueue::create(&plain, GuestAddress(at), RING_SIZE));
        // All entries of the ring are the same empty packet, which needs no reply.
        let packet = RawDescriptor::from(Descriptor::new(DATA, 44, 0, 0));
        rings[TX_QUEUE].desc_table().store(0, packet).unwrap();
        rings[TX_QUEUE].avail().idx().store(RING_SIZE);

        let mux = Mux::new(GUEST_CID, Arc::new(|_| None)).unwrap();
        let counters = Arc::new(Counters::new().unwrap());
        let backend = backend(mux, memory.clone(), counters).unwrap();
        let vrings: Vec<Vring> = rings.iter().map(|ring| vring(&memory, ring)).collect();
        let handle = |event| backend.handle_event(event, EventSet::IN, &vrings, 0).unwrap();
        let used = || rings[TX_QUEUE].used().idx().load();
        let more = || backend.again.read().is_ok_and(|count| count > 0);

        handle(0);
        assert_eq!(used(), RING_SIZE / 2);
        assert!(more(), "it wakes itself");
        handle(AGAIN_EVENT);
        handle(AGAIN_EVENT);
        assert_eq!(used(), RING_SIZE);
        assert!(!more(), "nothing is left to do");
    }
}
