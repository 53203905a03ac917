//! virtio-blk: one disk, one queue, one thread.
//!
//! ```text
//! guest ring ─► Buffers (checked slices) ─► Request ─► dyn Image ─► file
//!      used ring ◄── status byte ◄── result ◄──────────┘
//! ```
//!
//! Data is transferred between guest memory and the file without a copy. Discards and zero writes
//! become holes, so images stay sparse. An image can be replaced between two requests: at a stage
//! boundary, a running guest gets a new layer this way.

pub(crate) mod fuzz;
pub(crate) mod image;
pub(crate) mod qcow2;
pub(crate) mod raw;
mod request;

use std::{
    io,
    sync::{Arc, mpsc::SyncSender},
};

use machine::{BlockSize, DriveSerial};

use self::{image::Image, request::Request};
use super::{
    chain::Buffers,
    virtio::{Activation, ActiveQueue, Device},
    worker::{Handler, Requests, Worker},
};
use crate::counters::{Counter, Counters};

/// The device type.
const TYPE_BLOCK: u32 = 2;
/// Maximum requests in flight; with indirect descriptors each may have many segments.
const QUEUE_SIZE: u16 = 256;
/// Maximum segments of a request, besides header and status. The Linux driver allocates this many
/// descriptors per request.
const SEG_MAX: u32 = 254;
/// Maximum bytes of one chain: far above the result of SEG_MAX and the kernel's request limit of a
/// few MiB, far below what would stall the thread.
const CHAIN_MAX_BYTES: usize = 64 << 20;
/// Requests processed before the thread checks for commands of the host.
const BATCH: usize = 64;
/// The unit of the protocol's sector numbers, whatever the block size.
const SECTOR_BYTES: u64 = 512;
/// Maximum sectors of one discard or zero segment: 1 GiB.
const DISCARD_MAX_SECTORS: u32 = 1 << 21;
/// Maximum segments of one discard request; the driver merges up to this many.
const DISCARD_MAX_SEGMENTS: u32 = 64;
/// Maximum sectors of one write-zeroes request, which writes data if a hole is not wanted or the
/// filesystem does not support holes: the size of a maximum data chain.
const ZEROES_MAX_SECTORS: u32 = 1 << 17;
/// Maximum segments of one write-zeroes request; Linux sends only one.
const ZEROES_MAX_SEGMENTS: u32 = 1;

const F_SEG_MAX: u64 = 1 << 2;
const F_READ_ONLY: u64 = 1 << 5;
const F_BLOCK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Reports the first failure of a disk to the host as a message, which ends the machine: a build
/// must not continue after its disk lost data.
pub(crate) type Report = Arc<dyn Fn(String) + Send + Sync>;

/// The properties of a disk, apart from its image.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// The name the guest sees.
    pub(crate) serial: DriveSerial,
    /// Whether writes are refused.
    pub(crate) read_only: bool,
    /// Whether flushes reach stable storage.
    pub(crate) durable: bool,
    /// The logical block size.
    pub(crate) block_size: BlockSize,
}

/// A request of the host to replace the image. The old image is flushed first.
pub(crate) struct Swap {
    /// Creates the new image from the old one.
    pub(crate) layer: image::NewLayer,
    /// Receives the result.
    pub(crate) done: SyncSender<io::Result<()>>,
}

/// The device.
#[derive(Debug)]
pub(crate) struct Block {
    config: Vec<u8>,
    features: u64,
    worker: Worker<Swap>,
}

impl Block {
    /// Starts the disk's thread.
    pub(crate) fn start(
        setup: Setup,
        image: Box<dyn Image>,
        counters: Arc<Counters>,
        report: Report,
        confine: Box<dyn FnOnce() + Send>,
    ) -> io::Result<Self> {
        let config = config_space(&setup, image.as_ref());
        let features = features(&setup);
        let name = format!("disk-{}", setup.serial);
        let disk = Disk { setup, image, counters, report: Some(report) };
        let worker = Worker::start(&name, confine, disk)?;
        Ok(Self { config, features, worker })
    }

    /// Sends layer swaps to the disk.
    pub(crate) fn requests(&self) -> Requests<Swap> {
        self.worker.requests()
    }
}

fn features(setup: &Setup) -> u64 {
    let mut features = F_SEG_MAX | F_BLOCK_SIZE;
    if setup.read_only {
        features |= F_READ_ONLY;
    } else {
        features |= F_DISCARD | F_WRITE_ZEROES;
        if setup.durable {
            // Without this feature the guest sends no flushes; a build whose result is discarded on
            // a crash does not need them.
            features |= F_FLUSH;
        }
    }
    features
}

/// `struct virtio_blk_config` up to and including the zero-write limits.
fn config_space(setup: &Setup, image: &dyn Image) -> Vec<u8> {
    /// Fields that describe geometry and topology, which are not offered.
    const GEOMETRY: [u8; 4] = [0; 4];
    const TOPOLOGY_AND_WRITEBACK: [u8; 12] = [0; 12];
    let alignment = u32::try_from(image.granularity() / SECTOR_BYTES).unwrap_or(1);
    let mut config = Vec::new();
    config.extend_from_slice(&(image.len() / SECTOR_BYTES).to_le_bytes());
    config.extend_from_slice(&0u32.to_le_bytes()); // size_max: not offered
    config.extend_from_slice(&SEG_MAX.to_le_bytes());
    config.extend_from_slice(&GEOMETRY);
    config.extend_from_slice(&setup.block_size.bytes().to_le_bytes());
    config.extend_from_slice(&TOPOLOGY_AND_WRITEBACK);
    for value in [
        DISCARD_MAX_SECTORS,
        DISCARD_MAX_SEGMENTS,
        alignment,
        ZEROES_MAX_SECTORS,
        ZEROES_MAX_SEGMENTS,
        1, // zero writes may unmap; one byte and padding
    ] {
        config.extend_from_slice(&value.to_le_bytes());
    }
    config
}

impl Device for Block {
    fn device_type(&self) -> u32 {
        TYPE_BLOCK
    }
    fn features(&self) -> u64 {
        self.features
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
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

/// The state of the disk on its thread.
struct Disk {
    setup: Setup,
    image: Box<dyn Image>,
    counters: Arc<Counters>,
    /// Taken by the first failure. From then on the guest gets no replies, so the build ends with
    /// the host's error and not with the guest's reaction to an I/O error.
    report: Option<Report>,
}

impl Disk {
    /// Handles a valid request that failed on the host: reports it, which stops the VMM.
    fn failed(&mut self, action: &str, error: &io::Error) {
        self.counters.add(Counter::BlockErrors, 1);
        let serial = &self.setup.serial;
        let text = if error.kind() == io::ErrorKind::StorageFull {
            format!("the host has no space left for the image of `{serial}`")
        } else {
            format!("the host failed to {action} the image of `{serial}`: {error}")
        };
        if let Some(report) = self.report.take() {
            report(text);
        }
    }

    fn has_failed(&self) -> bool {
        self.report.is_none()
    }

    /// Processes one chain and returns the bytes written into it, or `None` if the chain has no
    /// room for a status.
    fn serve(&mut self, buffers: &Buffers<'_>) -> Option<u32> {
        let request = Request::parse(buffers, self.image.len(), &self.setup)?;
        let written = request.carry_out(self);
        self.counters.add(Counter::BlockRequests, 1);
        Some(written)
    }
}

impl Handler for Disk {
    type Request = Swap;

    fn process(&mut self, active: &mut Activation) -> bool {
        if self.has_failed() {
            return false;
        }
        active.serve(0, BATCH, CHAIN_MAX_BYTES, |buffers| {
            let written = buffers.and_then(|buffers| self.serve(&buffers));
            // A chain without room for a status is returned empty.
            (!self.has_failed()).then(|| written.unwrap_or(0))
        })
    }

    fn request(&mut self, swap: Swap, _: Option<&mut Activation>) {
        let result = self.image.flush(self.setup.durable).and_then(|()| {
            let old = std::mem::replace(&mut self.image, Box::new(image::Absent));
            match (swap.layer)(old) {
                Ok(new) => {
                    self.image = new;
                    Ok(())
                }
                Err((old, error)) => {
                    self.image = old;
                    Err(error)
                }
            }
        });
        // The requester may be gone; the swap is done anyway.
        let _ = swap.done.send(result);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.image.flush(self.setup.durable) {
            self.failed("flush", &error);
        }
    }
}

#[cfg(test)]
mod tests;
