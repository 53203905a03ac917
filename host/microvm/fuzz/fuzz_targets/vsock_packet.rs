//! Bytes for `microvm::fuzzing::vsock_packet`, which says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microvm::fuzzing::vsock_packet(bytes));
