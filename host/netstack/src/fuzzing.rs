//! The body of the fuzz target for the frames of a guest, for `tests/fuzz` and for this crate's own
//! tests.

use std::{io::Write, os::unix::net::UnixStream};

use crate::gateway::Gateway;

/// Maximum input length, which a socket buffer can hold.
const INPUT_MAX_BYTES: usize = 64 << 10;

/// Sends length-prefixed frames to a gateway whose host opens no channel.
pub fn frames(bytes: &[u8]) {
    let (ours, mut card) = UnixStream::pair().expect("a pair of sockets");
    let mut gateway = Gateway::new(ours, || None, 0).expect("a gateway");
    card.write_all(&bytes[..bytes.len().min(INPUT_MAX_BYTES)]).expect("room in the socket");
    let _ = gateway.turn();
}
