//! vbuild's own VMM on KVM, from rust-vmm crates.
//!
//! ```text
//!  parent: Microvm (Backend), Handle (Machine)        one process per machine
//!    monitor thread ◄── control socket, descriptors ──► main thread
//!    console tail   ◄── pipe ◄── 8250 ◄──────────────── vCPU threads ─► registers
//!    policy         ◄── socket ◄─────────────────────── vsock thread ◄─┐
//!    counters       ◄── shared page                     disk threads ◄─┤ ioeventfd
//!                                                       rng thread   ◄─┘ irqfd ─► guest
//! ```
//!
//! The path of a block request: guest ring, ioeventfd, the disk's thread, `preadv` between file and
//! guest memory, used ring, irqfd. The path of a packet: guest ring, the vsock thread's mux, a
//! socket pair whose other end the parent has.
//!
//! Reading order: [`probe`] determines whether `/dev/kvm` is usable; `layout`, `memory`,
//! `long_mode`, `boot`, `acpi`, `cpu` build a machine on which an unmodified kernel starts;
//! `devices` are its devices; `kick`, `vcpu`, `vm` run it; `saving` and `vcpu_state` stop and
//! restore it; `sandbox`, `control`, `child` are the
//! process in which it runs, and `trial` is that process when it tries to break out; `drives`,
//! `backend` are the parent's side. For QEMU's machines, `vhost` is the vsock device alone and
//! `nic` the network behind a card, each in such a process too (`device_process`).
//!
//! Architecture invariant: once confined, which is before there is a guest, the VMM process opens
//! no path, and has only the sockets that it was given; nothing that the guest writes makes a
//! device thread panic, loop, or access memory outside of guest RAM.
#![expect(
    unsafe_code,
    reason = "KVM needs raw memory regions, the shared kvm_run page and signal handlers; \
              every block says why it is sound"
)]
// UNSAFETY: this crate is the first of the two rooms where `unsafe` may be
// written (the other is guest-agent/src/sys.rs). It maps guest memory, hands
// it to KVM, and writes one byte of kvm_run from a signal handler; none of
// that has a safe interface.

#[doc(hidden)]
pub mod fuzzing;
pub mod probe;

mod acpi;
mod backend;
mod boot;
mod bounded;
mod child;
mod child_error;
mod connections;
mod control;
mod counters;
mod cpu;
mod device_process;
mod devices;
mod drives;
mod kick;
mod layout;
mod long_mode;
mod memory;
mod nic;
mod sandbox;
mod saving;
mod trial;
mod vcpu;
mod vcpu_state;
mod vhost;
mod vm;

pub use backend::{Microvm, VMM_VERB};
pub use child::{file_bytes_max, vmm_child};
pub use drives::{OpenDrive, create_layer, open_drive};
pub use nic::NicProcess;
pub use sandbox::{Sandbox, limit_file_size};
pub use trial::{ConfinedThread, confinement, try_out};
pub use vhost::VsockProcess;
