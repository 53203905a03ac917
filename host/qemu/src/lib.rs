//! QEMU's microvm machine as a backend, driven over QMP.
