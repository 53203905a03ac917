//! The body of the fuzz target: what a guest's card sends, for `tests/fuzz` and for this
//! crate's own tests.

use std::{io::Write, os::unix::net::UnixStream};

use crate::gateway::Gateway;

/// The longest input, which the socket holds at once.
const INPUT_MAX_BYTES: usize = 64 << 10;

/// Frames behind their lengths, to a gateway whose door refuses to open.
pub fn frames(bytes: &[u8]) {
    let (ours, mut card) = UnixStream::pair().expect("a pair of sockets");
    let mut gateway = Gateway::new(ours, || None, 0).expect("a gateway");
    card.write_all(&bytes[..bytes.len().min(INPUT_MAX_BYTES)]).expect("room in the socket");
    let _ = gateway.turn();
}
