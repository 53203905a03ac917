//! Bodies for fuzzing, for `fuzz/` and for this crate's property tests. None may panic,
//! loop, or take more memory than the limits allow, whatever the bytes are.

use std::fmt::Debug;

use crate::egress::{FRAME_MAX_BYTES, Message, Reply, Request};

/// Bytes as a stream to the egress port brings them, in either direction: what is
/// understood is written and read again as the same message.
pub fn egress(bytes: &[u8]) {
    messages::<Request>(bytes);
    messages::<Reply>(bytes);
}

fn messages<T: Message + PartialEq + Debug>(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(message) = T::read_from(&mut rest) {
        // Escapes that the sender did not need may take it over the limit.
        let Ok(frame) = message.to_frame() else { continue };
        assert!(frame.len() <= FRAME_MAX_BYTES + 4);
        assert_eq!(T::read_from(&mut &frame[..]).expect("the same message"), message);
    }
}
