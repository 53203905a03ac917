//! The body of the fuzz target for vsock packets.

use std::{os::unix::net::UnixStream, sync::Arc, time::Instant};

use vsock_mux::{GUEST_CID, Mux};

use super::MuxThread;
use crate::{
    counters::Counters,
    devices::{fuzz_rings as rings, virtio::Activation, worker::Handler},
};

/// Turns of the thread: a stream needs several to pass through its states.
const TURNS: usize = 8;
/// The host accepts connections to even ports.
const REFUSED_BIT: u32 = 1;

/// Processes three rings made from the input.
pub(crate) fn run(bytes: &[u8]) {
    let Some((mut thread, mut active)) = thread(bytes) else { return };
    thread.activated(&mut active);
    for _ in 0..TURNS {
        thread.process(&mut active);
    }
}

/// The same, in memory that another thread changes.
pub(crate) fn run_with_concurrent_writer(bytes: &[u8]) {
    let Some((mut thread, mut active)) = thread(bytes) else { return };
    let memory = active.memory.clone();
    thread.activated(&mut active);
    rings::with_concurrent_writer(&memory, bytes, || {
        for _ in 0..TURNS {
            thread.process(&mut active);
        }
    });
}

fn thread(bytes: &[u8]) -> Option<(MuxThread, Activation)> {
    let policy = |port: u32| {
        let (ours, theirs) = UnixStream::pair().ok()?;
        drop(theirs); // the host end closes at once
        (port & REFUSED_BIT == 0).then_some(ours)
    };
    let (mux, connector) = Mux::new(GUEST_CID, Arc::new(policy)).ok()?;
    let counters = Arc::new(Counters::new().ok()?);
    let thread =
        MuxThread { mux, connector, counters: Arc::clone(&counters), started: Instant::now() };
    let queues = vsock_mux::QUEUES as u64;
    Some((thread, rings::activation(bytes, queues, &counters)?))
}
