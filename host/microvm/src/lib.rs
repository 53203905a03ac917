//! vbuild's own VMM on KVM, from rust-vmm crates.
//!
//! Reading order: [`probe`] says whether `/dev/kvm` is worth using; `layout`,
//! `long_mode`, `memory` hold where things lie in the guest; `kick` is how a
//! running processor is interrupted.
#![expect(
    unsafe_code,
    reason = "KVM needs raw memory regions, the shared kvm_run page and signal handlers; \
              every block says why it is sound"
)]
// UNSAFETY: this crate is the first of the two rooms where `unsafe` may be
// written (the other is guest-agent/src/sys.rs). It maps guest memory, hands
// it to KVM, and writes one byte of kvm_run from a signal handler; none of
// that has a safe interface.

pub mod probe;

mod acpi;
mod backend;
mod boot;
mod child;
mod control;
mod counters;
mod cpu;
mod devices;
mod drives;
mod kick;
mod layout;
mod long_mode;
mod memory;
mod sandbox;
mod vcpu;
mod vm;

pub use backend::Microvm;
pub use child::vmm_child;
pub use control::Sandbox;
