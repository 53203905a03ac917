//! The guest's devices. Each virtio device is a [`virtio::Device`]: data for the register file, and
//! a worker thread that owns the queues while the driver is active.

pub(crate) mod balloon;
pub(crate) mod block;
pub(crate) mod chain;
pub(crate) mod fuzz_rings;
pub(crate) mod mmio;
pub(crate) mod rng;
pub(crate) mod serial;
pub(crate) mod virtio;
pub(crate) mod vsock;
pub(crate) mod worker;
