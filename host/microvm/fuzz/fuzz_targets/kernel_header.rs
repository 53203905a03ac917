//! Bytes for `microvm::fuzzing::kernel_header`, which says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microvm::fuzzing::kernel_header(bytes));
