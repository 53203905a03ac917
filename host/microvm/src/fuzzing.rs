//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests. None may panic,
//! loop or access memory outside of the guest's, whatever the input; sanitizers and property tests
//! check that.

use crate::devices;

/// A ring of the block device with its memory.
pub fn block_request(bytes: &[u8]) {
    crate::devices::block::fuzz::run(bytes);
}

/// A qcow2 image and a guest's operations on it.
pub fn qcow2_image(bytes: &[u8]) {
    crate::devices::block::qcow2::fuzz::run(bytes);
}

/// The rings of the vsock device, with packets.
pub fn vsock_packet(bytes: &[u8]) {
    crate::devices::vsock::fuzz::run(bytes);
}

/// The rings of the devices, in memory that another thread changes meanwhile, so that reading twice
/// gives different values. The first byte selects the device.
pub fn racing_memory(bytes: &[u8]) {
    let Some((device, bytes)) = bytes.split_first() else { return };
    match device % 4 {
        0 => devices::block::fuzz::run_with_concurrent_writer(bytes),
        1 => devices::vsock::fuzz::run_with_concurrent_writer(bytes),
        2 => devices::rng::fuzz(bytes),
        _ => devices::balloon::fuzz(bytes),
    }
}

/// A message between the processes of a machine.
pub fn control_message(bytes: &[u8]) {
    crate::control::fuzz(bytes);
}

/// Reads and writes of a device's registers, in any order.
pub fn mmio_registers(bytes: &[u8]) {
    crate::devices::mmio::fuzz::run(bytes);
}

/// The state of a saved machine.
pub fn saved_state(bytes: &[u8]) {
    crate::saving::fuzz(bytes);
}

/// A kernel image.
pub fn kernel_header(bytes: &[u8]) {
    crate::boot::fuzz::run(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
        // Fields of rings and registers mostly contain small numbers.
        prop::collection::vec(prop_oneof![Just(0), 0u8..8, any::<u8>()], 0..most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn block_requests(bytes in bytes(4096)) {
            super::block_request(&bytes);
        }

        #[test]
        fn qcow2_images(bytes in bytes(2048)) {
            super::qcow2_image(&bytes);
        }

        #[test]
        fn vsock_packets(bytes in bytes(4096)) {
            super::vsock_packet(&bytes);
        }

        #[test]
        fn memory_that_changes(bytes in bytes(2048)) {
            super::racing_memory(&bytes);
        }

        #[test]
        fn control_messages(
            text in "(\\{|\\}|\"start\":|\"connect\":|\"port\":|\"answer\":|\"id\":|\"error\":|\"ended\":|\"lost\"|null|[0-9]{1,20}|,|\"[a-z]{0,9}\"){0,20}",
        ) {
            super::control_message(text.as_bytes());
        }

        #[test]
        fn registers(bytes in bytes(2048)) {
            super::mmio_registers(&bytes);
        }

        #[test]
        fn saved_states(
            text in "(\\{|\\}|\\[|\\]|\"version\":1|\"memory_bytes\":|\"vcpus\":|\"chips\":|\"slots\":|\"queues\":|null|true|[0-9]{1,20}|,){0,24}",
        ) {
            super::saved_state(text.as_bytes());
        }

        #[test]
        fn kernels(bytes in bytes(4096)) {
            super::kernel_header(&bytes);
        }
    }
}
