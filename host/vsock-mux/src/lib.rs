//! The device side of virtio-vsock, multiplexed onto local streams.
