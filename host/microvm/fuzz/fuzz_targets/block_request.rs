//! Bytes for `microvm::fuzzing::block_request`, which says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microvm::fuzzing::block_request(bytes));
