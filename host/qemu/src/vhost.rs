//! The vsock device beside QEMU: a vhost-user backend on threads of this
//! process, with the shared mux behind it.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use machine::{ConnectDecision, GuestConnect, OnGuestConnect};
use vhost::vhost_user::{
    Error as Hangup, Listener,
    message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures},
};
use vhost_user_backend::{
    Error, ShutdownHandle, VhostUserBackend, VhostUserDaemon, VringMutex, VringT,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::{
    epoll::EventSet,
    event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier},
};
use vsock_mux::{Connector, GUEST_CID, Mux, RX_QUEUE, TX_QUEUE};

/// RX and TX; QEMU serves the event queue itself.
const VHOST_QUEUES: usize = 2;
/// The largest queue: QEMU 10 asks for 1,024 entries, older ones for 128.
const QUEUE_MAX_SIZE: u16 = 1024;
/// The event number of the mux's descriptor. Queues have 0 and 1, and 2 is the
/// library's own.
const HOST_EVENT: u16 = 3;
/// The name of the socket for the moment in which it exists.
const SOCKET_NAME: &str = "vhost-vsock";

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Vring = VringMutex<Memory>;

/// The mux and what it works on when the guest has no queues yet.
struct Device {
    mux: Mux,
    memory: Memory,
    idle_rx: Queue,
    idle_tx: Queue,
}

/// What the library calls.
#[derive(Clone)]
struct Backend {
    device: Arc<Mutex<Device>>,
    /// The mux's configuration space, which never changes.
    config: [u8; 8],
}

impl Backend {
    /// A panic while it was held would have been in the mux, which does not
    /// panic; the connections are still what they were.
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
        // The library tells the queues itself.
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
        // The guest's driver has gone, or its machine stops.
        if usize::try_from(queue) == Ok(RX_QUEUE) {
            self.device().mux.reset();
        }
        Ok(())
    }

    fn handle_event(
        &self,
        _event: u16,
        _set: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        let (Some(rx), Some(tx)) = (vrings.get(RX_QUEUE), vrings.get(TX_QUEUE)) else {
            return Err(io::Error::other("the vsock device needs two queues"));
        };
        let mut rx = rx.get_mut();
        let mut tx = tx.get_mut();
        let mut device = self.device();
        let Device { mux, memory, idle_rx, idle_tx } = &mut *device;
        let memory = memory.memory();
        if !(rx.is_enabled() && tx.is_enabled()) {
            // The mux's descriptor stays readable until the mux has looked.
            mux.process(&*memory, idle_rx, idle_tx);
            return Ok(());
        }
        loop {
            let progress = mux.process(&*memory, rx.get_queue_mut(), tx.get_queue_mut());
            if progress.signal_rx {
                rx.signal_used_queue()?;
            }
            if progress.signal_tx {
                tx.signal_used_queue()?;
            }
            if !progress.again {
                return Ok(());
            }
        }
    }
}

/// A running vsock device. Its threads end with QEMU's end of the connection or
/// with this value, whichever comes first.
pub(crate) struct VsockDevice {
    /// Opens connections to the guest.
    pub(crate) connector: Connector,
    shutdown: Option<ShutdownHandle>,
    keeper: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for VsockDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VsockDevice").field("connector", &self.connector).finish_non_exhaustive()
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        if let Some(shutdown) = &self.shutdown {
            shutdown.shutdown();
        }
        if self.keeper.take().is_some_and(|keeper| keeper.join().is_err()) {
            tracing::error!("the thread of the vsock device panicked");
        }
    }
}

/// Starts the device and returns the connection that QEMU is to inherit.
/// The socket exists in `run_dir` only meanwhile. `on_failure` is called when
/// the two sides do not understand each other.
pub(crate) fn start(
    run_dir: &Path,
    on_guest_connect: OnGuestConnect,
    on_failure: impl FnOnce(String) + Send + 'static,
) -> io::Result<(VsockDevice, UnixStream)> {
    let policy = move |port| match on_guest_connect(GuestConnect { port }) {
        ConnectDecision::Accept(stream) => Some(stream),
        ConnectDecision::Refuse => None,
    };
    let (mux, connector) = Mux::new(GUEST_CID, Arc::new(policy)).map_err(io::Error::other)?;
    let config = mux.config_space();
    let mux_fd = mux.as_raw_fd();
    let memory = Memory::new(GuestMemoryMmap::new());
    let idle = || Queue::new(QUEUE_MAX_SIZE).map_err(|e| io::Error::other(e.to_string()));
    let device = Device { mux, memory: memory.clone(), idle_rx: idle()?, idle_tx: idle()? };
    let backend = Backend { device: Arc::new(Mutex::new(device)), config };

    let failed = |what: vhost_user_backend::Error| io::Error::other(what.to_string());
    let mut daemon =
        VhostUserDaemon::new("vhost-vsock".to_owned(), backend, memory).map_err(failed)?;
    let (listener, for_qemu) = rendezvous(run_dir)?;
    daemon.start(&mut Listener::from(listener)).map_err(failed)?;
    for handler in daemon.get_epoll_handlers() {
        handler.register_listener(mux_fd, EventSet::IN, u64::from(HOST_EVENT))?;
    }
    let shutdown = daemon.shutdown_handle();
    let keeper =
        thread::Builder::new().name("vhost-keeper".to_owned()).spawn(move || {
            match daemon.wait() {
                Ok(())
                | Err(Error::HandleRequest(Hangup::Disconnected | Hangup::PartialMessage)) => {}
                Err(cause) => on_failure(cause.to_string()),
            }
        })?;
    Ok((VsockDevice { connector, shutdown, keeper: Some(keeper) }, for_qemu))
}

/// A listener with one connection waiting, and that connection's other end: the
/// library accepts connections but does not take them ready-made.
fn rendezvous(run_dir: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let directory = File::open(run_dir)?;
    // Socket addresses hold 108 bytes; through the descriptor, a path of any
    // length fits.
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    let connected = UnixStream::connect(&path);
    std::fs::remove_file(&path)?;
    Ok((listener, connected?))
}
