//! virtio-vsock: the shared mux core on a thread of its own.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::Instant,
};

use vsock_mux::{DEVICE_ID, Mux, QUEUE_SIZE, RX_QUEUE, TX_QUEUE};

use super::{
    virtio::{Activation, ActiveQueue, Device},
    worker::{Handler, Worker},
};
use crate::counters::{Counter, Counters};

/// Calls of the mux after which the thread looks for commands.
const BATCH: usize = 16;

/// The device.
#[derive(Debug)]
pub(crate) struct Vsock {
    config: [u8; 8],
    worker: Worker<()>,
}

impl Vsock {
    /// Starts the device's thread around a mux.
    pub(crate) fn start(
        mux: Mux,
        counters: Arc<Counters>,
        confine: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Self> {
        let config = mux.config_space();
        let thread = MuxThread { mux, counters, started: Instant::now(), confine: Some(confine) };
        Ok(Self { config, worker: Worker::start("vsock", thread)? })
    }
}

impl Device for Vsock {
    fn device_type(&self) -> u32 {
        DEVICE_ID
    }
    fn features(&self) -> u64 {
        // The ring features that the mux names are offered by the transport for
        // every device.
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
    fn reset(&mut self) {
        self.worker.reset();
    }
}

struct MuxThread {
    mux: Mux,
    counters: Arc<Counters>,
    started: Instant,
    confine: Option<Box<dyn FnOnce() + Send>>,
}

impl Handler for MuxThread {
    type Request = ();

    fn confine(&mut self) {
        if let Some(confine) = self.confine.take() {
            confine();
        }
    }

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
                return false;
            }
        }
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
