//! What a saved machine depends on, besides its specification: the program, the host's kernel and
//! its boot, the processor.

use std::{io, thread};

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::Kvm;
use sha2::{Digest, Sha256};

use crate::cpu;

/// The identity of this host and program, for machines with this number of CPUs.
///
/// # Errors
/// Fails if there is no KVM, or without `/proc`.
pub(super) fn of_host(vcpus: u8) -> io::Result<String> {
    let kvm = Kvm::new()?;
    let supported = cpu::supported(&kvm).map_err(io::Error::other)?;
    // The CPUID of one CPU says no more which processor of the host was asked.
    let cpuid = digest(&cpu::for_vcpu(&supported, 0, vcpus));
    let tsc_khz = tsc_khz(&kvm)?;
    let kernel = nix::sys::utsname::uname()?;
    let (release, build) = (kernel.release().display(), kernel.version().display());
    let boot = machine::host_boot_id()?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        "microvm {version} cpuid {cpuid} tsc {tsc_khz} kernel {release} {build} boot {boot}"
    ))
}

fn tsc_khz(kvm: &Kvm) -> io::Result<u32> {
    let vm = kvm.create_vm()?;
    let vcpu = vm.create_vcpu(0)?;
    let khz = vcpu.get_tsc_khz()?;
    // The kernel waits for other processors when it removes a machine, some ten milliseconds.
    // Nobody else has to wait for that; without a thread, the error drops them here.
    drop(thread::Builder::new().name("identity".to_owned()).spawn(move || drop((vcpu, vm))));
    Ok(khz)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_follows_what_the_guest_sees() {
        let entry = |eax| kvm_cpuid_entry2 { function: 1, eax, ..Default::default() };
        assert_eq!(digest(&[entry(1)]), digest(&[entry(1)]));
        assert_ne!(digest(&[entry(1)]), digest(&[entry(2)]));
        assert_ne!(digest(&[entry(1)]), digest(&[entry(1), entry(1)]));
        // Without a KVM that runs guests there is none.
        if let Ok(identity) = of_host(2) {
            assert!(identity.contains("boot ") && identity.contains("tsc "), "{identity}");
            assert_eq!(of_host(2).ok(), Some(identity));
        } else {
            println!("skipped a part: there is no KVM here");
        }
    }
}
