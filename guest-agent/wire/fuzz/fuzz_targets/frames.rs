//! Bytes as a connection would bring them: reading never panics, never takes
//! more memory than the limits allow, and what is understood is written back as
//! the same bytes and the same message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::Frame;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    loop {
        let before = rest;
        let Ok(Some(frame)) = Frame::read_from(&mut rest) else { break };
        assert!(frame.payload.len() <= frame.kind.max_bytes());
        let written = frame.to_bytes().expect("what was read can be written");
        assert_eq!(written, before[..before.len() - rest.len()]);
        if let Ok(request) = frame.as_request() {
            // Fields that were left out are written, and may take it over the limit.
            if let Ok(again) = Frame::request(frame.stream, &request) {
                assert_eq!(again.as_request().expect("the same request"), request);
            }
        }
        if let Ok(reply) = frame.as_reply() {
            // Fields that were left out are written, and may take it over the limit.
            if let Ok(again) = Frame::reply(frame.stream, &reply) {
                assert_eq!(again.as_reply().expect("the same reply"), reply);
            }
        }
        let _ = frame.as_credit();
    }
});
