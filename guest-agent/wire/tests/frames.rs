//! The codec against arbitrary frames, arbitrary bytes, and streams that give
//! their bytes in arbitrary pieces.

use std::io::{self, Read};

use proptest::prelude::*;
use wire::frame::Prefix;
use wire::{Channel, DATA_MAX_BYTES, Frame, FrameError, FrameKind, HEADER_MAX_BYTES, PREFIX_BYTES};

/// A reader that gives its bytes in pieces of given sizes, over and over, with
/// an interruption before each.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: Vec<usize>,
    turn: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.turn += 1;
        if self.turn % 2 == 1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let size = self.sizes[self.turn / 2 % self.sizes.len()];
        let count = size.min(buffer.len()).min(self.bytes.len());
        buffer[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
}

fn channel() -> impl Strategy<Value = Channel> {
    prop_oneof![Just(Channel::Main), Just(Channel::Stdout), Just(Channel::Stderr)]
}

/// Any frame that the protocol allows; headers need not be JSON for the codec.
fn frame() -> impl Strategy<Value = Frame> {
    let stream = 1..=u32::MAX;
    let bytes = |least| prop::collection::vec(any::<u8>(), least..2000);
    prop_oneof![
        (stream.clone(), channel(), bytes(1)).prop_map(|(s, c, b)| Frame::data(s, c, b)),
        (stream.clone(), channel()).prop_map(|(s, c)| Frame::end(s, c)),
        (stream.clone(), channel(), any::<u32>()).prop_map(|(s, c, n)| Frame::credit(s, c, n)),
        (stream, any::<bool>(), bytes(0)).prop_map(|(stream, request, payload)| {
            let kind = if request { FrameKind::Request } else { FrameKind::Reply };
            Frame { stream, kind, channel: Channel::Main, payload }
        }),
    ]
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| frame.to_bytes().expect("within limits")).collect()
}

fn read_all(reader: &mut impl Read) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = Frame::read_from(reader)? {
        frames.push(frame);
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn frames_survive_any_split(
        frames in prop::collection::vec(frame(), 0..8),
        sizes in prop::collection::vec(1_usize..3000, 1..6),
    ) {
        let bytes = bytes_of(&frames);
        let mut reader = Pieces { bytes: &bytes, sizes, turn: 0 };
        prop_assert_eq!(read_all(&mut reader).expect("the same frames"), frames);
    }

    #[test]
    fn async_reads_find_the_same(frames in prop::collection::vec(frame(), 0..8)) {
        let bytes = bytes_of(&frames);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (found, written) = runtime.block_on(async {
            let (mut found, mut reader, mut written) = (Vec::new(), bytes.as_slice(), Vec::new());
            while let Some(frame) = Frame::read_async(&mut reader).await.expect("frames") {
                frame.write_async(&mut written).await.expect("into memory");
                found.push(frame);
            }
            (found, written)
        });
        prop_assert_eq!(found, frames);
        prop_assert_eq!(written, bytes);
    }

    #[test]
    fn a_stream_cut_within_a_frame_is_an_error(frame in frame(), cut in any::<prop::sample::Index>()) {
        let bytes = frame.to_bytes().expect("within limits");
        let end = cut.index(bytes.len());
        let result = Frame::read_from(&mut &bytes[..end]);
        if end == 0 {
            prop_assert!(matches!(result, Ok(None)));
        } else {
            prop_assert!(matches!(result, Err(FrameError::Io(_))));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_stay_within_limits(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        if let Ok(Some(frame)) = Frame::read_from(&mut bytes.as_slice()) {
            prop_assert!(frame.kind.lengths().contains(&frame.payload.len()));
            let again = frame.to_bytes().expect("what was read can be written");
            prop_assert_eq!(&again[..], &bytes[..again.len()]);
            let _ = (frame.as_request(), frame.as_reply(), frame.as_credit());
        }
    }

    #[test]
    fn a_prefix_is_taken_only_within_the_protocol(bytes in any::<[u8; PREFIX_BYTES]>()) {
        if let Ok(prefix) = Prefix::parse(&bytes) {
            prop_assert!(prefix.kind.lengths().contains(&prefix.length));
            prop_assert!(prefix.stream != 0);
        }
    }
}

/// A prefix by its fields.
fn prefix(length: usize, kind: u8, channel: u8, zero: u8, stream: u32) -> [u8; PREFIX_BYTES] {
    let mut bytes = [0; PREFIX_BYTES];
    bytes[..4].copy_from_slice(&u32::try_from(length).expect("a test's number").to_le_bytes());
    bytes[4] = kind;
    bytes[5] = channel;
    bytes[7] = zero;
    bytes[8..].copy_from_slice(&stream.to_le_bytes());
    bytes
}

#[test]
fn hostile_prefixes_are_refused_before_anything_is_allocated() {
    let refused = [
        (prefix(HEADER_MAX_BYTES + 1, 1, 0, 0, 1), "payload length"),
        (prefix(HEADER_MAX_BYTES + 1, 2, 0, 0, 1), "payload length"),
        (prefix(DATA_MAX_BYTES + 1, 3, 0, 0, 1), "payload length"),
        (prefix(0, 3, 0, 0, 1), "payload length"),
        (prefix(1, 4, 0, 0, 1), "payload length"),
        (prefix(3, 5, 0, 0, 1), "payload length"),
        (prefix(5, 5, 0, 0, 1), "payload length"),
        (prefix(u32::MAX as usize, 3, 0, 0, 1), "payload length"),
        (prefix(0, 0, 0, 0, 1), "unknown frame kind"),
        (prefix(0, 6, 0, 0, 1), "unknown frame kind"),
        (prefix(0, 3, 3, 0, 1), "unknown channel"),
        (prefix(0, 3, 0, 1, 1), "bad reserved field or stream"),
        (prefix(0, 3, 0, 0, 0), "bad reserved field or stream"),
    ];
    for (bytes, reason) in refused {
        let error = Frame::read_from(&mut bytes.as_slice()).expect_err("hostile");
        assert!(error.to_string().contains(reason), "{bytes:?}: {error}");
    }
}

#[test]
fn the_largest_frames_pass_and_larger_ones_are_not_written() {
    for (kind, max) in [(FrameKind::Reply, HEADER_MAX_BYTES), (FrameKind::Data, DATA_MAX_BYTES)] {
        let mut frame = Frame { stream: 1, kind, channel: Channel::Main, payload: vec![7; max] };
        let bytes = frame.to_bytes().expect("within limits");
        assert_eq!(Frame::read_from(&mut bytes.as_slice()).expect("valid"), Some(frame.clone()));
        frame.payload.push(7);
        assert!(frame.to_bytes().is_err());
        assert!(frame.write_to(&mut Vec::new()).is_err());
    }
}

proptest! {
    #[test]
    fn messages_of_the_egress_port_are_read_from_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        wire::fuzzing::egress(&bytes);
    }

    #[test]
    fn messages_of_the_egress_port_are_read_from_almost_right_bytes(
        bodies in prop::collection::vec(egress_body(), 0..4),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = Vec::new();
        for body in bodies {
            bytes.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
            bytes.extend(body.into_bytes());
        }
        if let (Some((index, byte)), false) = (damage, bytes.is_empty()) {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        wire::fuzzing::egress(&bytes);
    }
}

/// Bodies of requests and replies, most of them right.
fn egress_body() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..3u32, "[a-z.\\\\\"]{0,30}", any::<u16>()).prop_map(|(v, host, port)| {
            format!(r#"{{"v":{v},"op":"connect","host":"{host}","port":{port}}}"#)
        }),
        (0..3u32, "\\PC{0,3000}").prop_map(|(v, name)| {
            let name = serde_json::to_string(&name).expect("text is JSON");
            format!(r#"{{"v":{v},"op":"resolve","name":{name}}}"#)
        }),
        (any::<bool>(), any::<Option<u32>>()).prop_map(|(ok, addrs)| match addrs {
            Some(addrs) => format!(r#"{{"ok":{ok},"addrs":{addrs}}}"#),
            None => format!(r#"{{"ok":{ok},"kind":"policy","message":"m"}}"#),
        }),
    ]
}
