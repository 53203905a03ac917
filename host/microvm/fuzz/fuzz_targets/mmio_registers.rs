//! Bytes for `microvm::fuzzing::mmio_registers`, which says what must hold.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| microvm::fuzzing::mmio_registers(bytes));
