//! What a saved machine depends on, besides its specification: the program, the host's kernel and
//! its boot, the processor.

use std::{fs, io};

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::Kvm;
use sha2::{Digest, Sha256};

use crate::cpu;

/// Changes with each boot of the host; see random(4).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The identity of this host and program, for machines with this number of CPUs.
///
/// # Errors
/// Fails if there is no KVM, or without `/proc`.
pub(super) fn of_host(vcpus: u8) -> io::Result<String> {
    let kvm = Kvm::new()?;
    let supported = cpu::supported(&kvm).map_err(io::Error::other)?;
    // The CPUID of one CPU says no more which processor of the host was asked.
    let cpuid = digest(&cpu::for_vcpu(&supported, 0, vcpus));
    let tsc_khz = kvm.create_vm()?.create_vcpu(0)?.get_tsc_khz()?;
    let kernel = nix::sys::utsname::uname()?;
    let (release, build) = (kernel.release().display(), kernel.version().display());
    let boot = fs::read_to_string(BOOT_ID)?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        "microvm {version} cpuid {cpuid} tsc {tsc_khz} kernel {release} {build} boot {}",
        boot.trim()
    ))
}

fn digest(cpuid: &[kvm_cpuid_entry2]) -> String {
    let mut hash = Sha256::new();
    for entry in cpuid {
        let kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: _ } = *entry;
        for word in [function, index, flags, eax, ebx, ecx, edx] {
            hash.update(word.to_le_bytes());
        }
    }
    hex::encode(hash.finalize())
}
