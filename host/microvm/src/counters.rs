//! Counters of a running machine, in a page shared by the VMM process and its parent: they can be
//! read at any time without a request, and also after the VMM has died.

use std::{
    fs::File,
    sync::atomic::{AtomicU64, Ordering},
};

use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use crate::memory::{self, MemoryError};

/// Declares the counters with the names that `Machine::counters` returns.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum Counter { $($(#[$doc])* $variant,)* }

        /// All counters with their names.
        const ALL: &[(Counter, &str)] = &[$((Counter::$variant, $name),)*];
    };
}

counters! {
    /// Exits for port reads and writes.
    ExitsPort = "exits_port",
    /// Exits for reads and writes of device registers.
    ExitsMmio = "exits_mmio",
    /// All other exits to userspace.
    ExitsOther = "exits_other",
    /// Interrupted `KVM_RUN` calls.
    ExitsSignal = "exits_signal",
    /// Bytes that the guest wrote to its console.
    ConsoleBytes = "console_bytes",
    /// Requests that block devices finished.
    BlockRequests = "block_requests",
    /// Bytes read from disks.
    BlockBytesRead = "block_bytes_read",
    /// Bytes written to disks.
    BlockBytesWritten = "block_bytes_written",
    /// Bytes of disks discarded to the host.
    BlockBytesDiscarded = "block_bytes_discarded",
    /// Requests that failed.
    BlockErrors = "block_errors",
    /// Interrupts that devices raised.
    Interrupts = "interrupts",
    /// Userspace exits until the guest first used its vsock device.
    ExitsToVsock = "exits_to_vsock",
    /// Microseconds from the first processor's start to the guest's first use
    /// of its vsock device.
    MicrosecondsToVsock = "us_to_vsock",
    /// Bytes of free guest memory returned to the host.
    MemoryBytesReturned = "memory_bytes_returned",
    /// Bytes of random numbers given to the guest.
    RngBytes = "rng_bytes",
    /// Streams open between host and guest.
    VsockConnections = "vsock_connections",
    /// Packets that the guest has sent.
    VsockPacketsFromGuest = "vsock_packets_from_guest",
    /// Packets sent to the guest.
    VsockPacketsToGuest = "vsock_packets_to_guest",
    /// Bytes of payload that the guest has sent.
    VsockBytesFromGuest = "vsock_bytes_from_guest",
    /// Bytes of payload sent to the guest.
    VsockBytesToGuest = "vsock_bytes_to_guest",
}

/// One page, which holds 512 counters.
const BYTES: u64 = 4096;

/// The shared page.
#[derive(Debug)]
pub(crate) struct Counters {
    file: File,
    region: MmapRegion,
}

impl Counters {
    /// Creates a page with zeros.
    pub(crate) fn new() -> Result<Self, MemoryError> {
        Self::open(memory::create_file(BYTES)?)
    }

    /// Maps a page that another process has created.
    pub(crate) fn open(file: File) -> Result<Self, MemoryError> {
        let failed = |reason: String| MemoryError::Map { bytes: BYTES, reason };
        let offset = FileOffset::new(file.try_clone().map_err(|e| failed(e.to_string()))?, 0);
        let size = usize::try_from(BYTES).map_err(|e| failed(e.to_string()))?;
        let region = MmapRegion::from_file(offset, size).map_err(|e| failed(e.to_string()))?;
        Ok(Self { file, region })
    }

    /// The file behind the page, to be passed on.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn slot(&self, counter: Counter) -> &AtomicU64 {
        self.region
            .get_atomic_ref(counter as usize * size_of::<AtomicU64>())
            .expect("every counter lies in the page, at a multiple of its size")
    }

    /// Adds to a counter.
    pub(crate) fn add(&self, counter: Counter, value: u64) {
        self.slot(counter).fetch_add(value, Ordering::Relaxed);
    }

    /// Sets a counter that is still zero.
    pub(crate) fn set_once(&self, counter: Counter, value: u64) {
        let _ = self.slot(counter).compare_exchange(0, value, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Copies the counters of the vsock device.
    pub(crate) fn set_vsock(&self, stats: &vsock_mux::Stats) {
        for (counter, value) in [
            (Counter::VsockConnections, stats.connections),
            (Counter::VsockPacketsFromGuest, stats.packets_from_guest),
            (Counter::VsockPacketsToGuest, stats.packets_to_guest),
            (Counter::VsockBytesFromGuest, stats.bytes_from_guest),
            (Counter::VsockBytesToGuest, stats.bytes_to_guest),
        ] {
            self.slot(counter).store(value, Ordering::Relaxed);
        }
    }

    /// The value of one counter.
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.slot(counter).load(Ordering::Relaxed)
    }

    /// The number of exits to userspace.
    pub(crate) fn exits(&self) -> u64 {
        [Counter::ExitsPort, Counter::ExitsMmio, Counter::ExitsOther, Counter::ExitsSignal]
            .iter()
            .map(|counter| self.get(*counter))
            .sum()
    }

    /// All counters by name.
    pub(crate) fn snapshot(&self) -> Vec<(String, u64)> {
        ALL.iter().map(|(counter, name)| ((*name).to_owned(), self.get(*counter))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_see_the_same_numbers() {
        let ours = Counters::new().unwrap();
        let theirs = Counters::open(ours.file().try_clone().unwrap()).unwrap();
        theirs.add(Counter::ExitsPort, 3);
        theirs.add(Counter::ExitsMmio, 4);
        theirs.set_once(Counter::ExitsToVsock, 9);
        theirs.set_once(Counter::ExitsToVsock, 10);
        assert_eq!(ours.exits(), 7);
        assert_eq!(ours.get(Counter::ExitsToVsock), 9);
        assert!(ours.snapshot().contains(&("exits_port".to_owned(), 3)));
    }
}
