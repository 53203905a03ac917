//! vbuild's own VMM on KVM, from rust-vmm crates.
