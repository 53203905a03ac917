//! The body of the fuzz target for vsock packets.

use std::{os::unix::net::UnixStream, sync::Arc, time::Instant};

use vsock_mux::{GUEST_CID, Mux};

use super::MuxThread;
use crate::{counters::Counters, devices::worker::Handler, fuzzing::rings};

/// Turns of the thread after each other: a stream needs several to go through
/// its states.
const TURNS: usize = 8;
/// The host takes connections to even ports.
const REFUSED_BIT: u32 = 1;

/// Works on three rings made of the bytes.
pub(crate) fn run(bytes: &[u8]) {
    let policy = |port: u32| {
        let (ours, theirs) = UnixStream::pair().ok()?;
        drop(theirs); // the host end closes at once
        (port & REFUSED_BIT == 0).then_some(ours)
    };
    let (Ok((mux, connector)), Ok(counters)) =
        (Mux::new(GUEST_CID, Arc::new(policy)), Counters::new())
    else {
        return;
    };
    let counters = Arc::new(counters);
    let mut thread = MuxThread {
        mux,
        connector,
        counters: Arc::clone(&counters),
        started: Instant::now(),
        confine: None,
    };
    let queues = vsock_mux::QUEUES as u64;
    let Some(mut active) = rings::activation(bytes, queues, &counters) else { return };
    thread.activated(&mut active);
    for _ in 0..TURNS {
        thread.process(&mut active);
    }
    thread.deactivated();
}
