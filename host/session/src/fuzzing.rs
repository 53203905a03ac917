//! The body of this crate's fuzz target, called by `tests/fuzz` and by the unit tests.

use wire::{Channel, DATA_MAX_BYTES, Frame, FrameKind, INITIAL_CREDIT_BYTES};

use crate::{
    connection::Table,
    inbox::{Inbox, Incoming},
};

/// Number of streams that are open when the first frame arrives.
const STREAMS: u8 = 4;
/// Maximum data of a stream in bytes: the credit of its three channels.
const DATA_MAX: usize = 3 * INITIAL_CREDIT_BYTES as usize;
/// The replies that frames contain. Malformed replies are tested by the fuzz target of `wire`.
const REPLIES: [&str; 4] = [
    r#"{"reply":"started","pid":1}"#,
    r#"{"reply":"done"}"#,
    r#"{"reply":"exited","status":{"code":0},"cpu_ms":1}"#,
    r#"{"reply":"failed","action":"a","reason":"b","errno":null}"#,
];

/// Dispatches frames of an agent, each made from four bytes: kind and channel, stream, and a 16-bit
/// number. The first stream is read at once, and its credit is returned. The other streams are read
/// only at the end.
///
/// # Panics
/// Panics if a stream contains more data than its credit allows, if the first stream delivers more
/// data than was sent, or if a piece of data is empty or too large.
pub fn dispatch(bytes: &[u8]) {
    let table = Table::default();
    let inboxes: Vec<_> = (1..=STREAMS).map(|id| table.open(u32::from(id)).0).collect();
    let (mut sent, mut taken) = (0, 0);
    for op in bytes.as_chunks::<4>().0 {
        let frame = frame(*op);
        let (stream, length) = (frame.stream, frame.payload.len());
        let is_data = frame.kind == FrameKind::Data;
        if table.dispatch(frame).is_err() {
            break;
        }
        if stream == 1 {
            sent += if is_data { length } else { 0 };
            taken += drain(&inboxes[0]);
        }
    }
    // Data after a final reply is dropped, so less than was sent may arrive, but never more.
    assert!(taken <= sent, "{taken} bytes of {sent}");
    for inbox in &inboxes {
        let mut held = 0;
        while let Some(incoming) = inbox.try_next() {
            if let Incoming::Data(_, bytes) = incoming {
                assert!((1..=DATA_MAX_BYTES).contains(&bytes.len()));
                held += bytes.len();
            }
        }
        assert!(held <= DATA_MAX, "{held} bytes in one stream");
    }
}

/// Reads everything from an inbox, as a consumer does. Returns the number of bytes.
fn drain(inbox: &Inbox) -> usize {
    let mut taken = 0;
    while let Some(incoming) = inbox.try_next() {
        if let Incoming::Data(channel, bytes) = incoming {
            inbox.allow(channel, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            taken += bytes.len();
        }
    }
    taken
}

fn frame([what, stream, low, high]: [u8; 4]) -> Frame {
    let channel = Channel::from_number(what >> 4 & 3).unwrap_or(Channel::Main);
    let stream = u32::from(stream % (STREAMS + 2)) + 1;
    let number = u16::from_le_bytes([low, high]);
    match what & 0x0f {
        0..=8 => Frame::data(stream, channel, vec![what; usize::from(number) + 1]),
        9 => Frame::end(stream, channel),
        10 => Frame::credit(stream, channel, u32::from(number) << 16 | 1),
        11 => Frame { kind: FrameKind::Request, ..Frame::end(stream, channel) },
        _ => {
            let payload = REPLIES[usize::from(number) % REPLIES.len()].as_bytes().to_vec();
            Frame { kind: FrameKind::Reply, payload, ..Frame::end(stream, channel) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_in_any_order(ops in prop::collection::vec(any::<[u8; 4]>(), 0..400)) {
            // Four streams, and the bytes of the one that is read on their way.
            memory_bound::within(5 * 2 * super::DATA_MAX as u64, || super::dispatch(&ops.concat()));
        }
    }
}
