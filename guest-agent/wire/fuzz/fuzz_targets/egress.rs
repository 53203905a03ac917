//! Bytes as a stream to the egress port brings them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| wire::fuzzing::egress(bytes));
