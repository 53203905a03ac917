//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests. For any input,
//! none of them may panic, loop for ever, or use more memory than the limits allow.

use std::fmt::Debug;

use crate::{
    Frame,
    egress::{FRAME_MAX_BYTES, Message, Reply, Request},
};

/// Reads the bytes as frames of a connection. Checks that no payload is longer than its limit
/// allows, that each frame is written as the same bytes again, and that each message is unchanged
/// after it is written and read again.
///
/// # Panics
/// Panics if one of these checks fails.
pub fn frames(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let before = rest;
        let Ok(Some(frame)) = Frame::read_from(&mut rest) else { break };
        assert!(frame.kind.lengths().contains(&frame.payload.len()));
        let written = frame.to_bytes().expect("what was read can be written");
        assert_eq!(written, before[..before.len() - rest.len()]);
        // Fields that the sender omitted are written, which may make a header larger than its
        // limit.
        if let Ok(request) = frame.as_request()
            && let Ok(again) = Frame::request(frame.stream, &request)
        {
            assert_eq!(again.as_request().expect("the same request"), request);
        }
        if let Ok(reply) = frame.as_reply()
            && let Ok(again) = Frame::reply(frame.stream, &reply)
        {
            assert_eq!(again.as_reply().expect("the same reply"), reply);
        }
        let _ = frame.as_credit();
    }
}

/// Reads the bytes as a stream to the egress port, in either direction. Checks that each message is
/// unchanged after it is written and read again.
pub fn egress(bytes: &[u8]) {
    messages::<Request>(bytes);
    messages::<Reply>(bytes);
}

fn messages<T: Message + PartialEq + Debug>(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(message) = T::read_from(&mut rest) {
        // Escapes that the sender did not need may make the frame larger than its limit.
        let Ok(frame) = message.to_frame() else { continue };
        assert!(frame.len() <= FRAME_MAX_BYTES + 4);
        assert_eq!(T::read_from(&mut &frame[..]).expect("the same message"), message);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn streams_of_frames(
            frames in prop::collection::vec((1_u8..7, 0_u8..4, 0_u8..3, "\\PC{0,40}"), 0..6),
        ) {
            let mut bytes = Vec::new();
            for (kind, channel, stream, text) in frames {
                let length = u32::try_from(text.len()).unwrap_or_default();
                bytes.extend(length.to_le_bytes());
                bytes.extend([kind, channel, 0, 0, stream, 0, 0, 0]);
                bytes.extend(text.bytes());
            }
            super::frames(&bytes);
        }
    }
}
