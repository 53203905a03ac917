//! Guest memory: one memfd, mapped below and above the gap in which a PC keeps
//! its devices, touched lazily, and registered with KVM.

use std::{fs::File, io, os::fd::FromRawFd};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap, MmapRegion,
};

use crate::layout::{GAP_END, GAP_START};

/// Errors of creating guest memory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The memfd cannot be created or sized.
    #[error("failed to create a memory file of {bytes} bytes")]
    Create {
        /// Its size.
        bytes: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A part of it cannot be mapped.
    #[error("failed to map {bytes} bytes of guest memory: {reason}")]
    Map {
        /// The part's size.
        bytes: u64,
        /// What the mapping said.
        reason: String,
    },
}

/// The parts of RAM as (guest address, bytes), in rising order.
pub(crate) fn parts(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= GAP_START {
        vec![(0, bytes)]
    } else {
        vec![(0, GAP_START), (GAP_END, bytes - GAP_START)]
    }
}

/// Creates the file that is the guest's memory. Nothing is touched, so the
/// host gives pages only as the guest uses them.
pub(crate) fn create_file(bytes: u64) -> Result<File, MemoryError> {
    let failed = |source| MemoryError::Create { bytes, source };
    // SAFETY: the name is a NUL-terminated literal; the call has no other
    // memory arguments.
    let fd = unsafe { libc::memfd_create(c"vbuild-guest".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just created and is owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes).map_err(failed)?;
    Ok(file)
}

/// Maps the file at the guest addresses of [`parts`].
pub(crate) fn map(file: &File, bytes: u64) -> Result<GuestMemoryMmap, MemoryError> {
    let mut regions = Vec::new();
    let mut offset = 0;
    for (address, len) in parts(bytes) {
        let failed = |reason: String| MemoryError::Map { bytes: len, reason };
        let file = file.try_clone().map_err(|e| failed(e.to_string()))?;
        let size = usize::try_from(len).map_err(|e| failed(e.to_string()))?;
        let region = MmapRegion::build(
            Some(FileOffset::new(file, offset)),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
        )
        .map_err(|e| failed(e.to_string()))?;
        let region = GuestRegionMmap::new(region, GuestAddress(address))
            .ok_or_else(|| failed("it ends beyond the address space".to_owned()))?;
        regions.push(region);
        offset += len;
    }
    GuestMemoryMmap::from_regions(regions)
        .map_err(|e| MemoryError::Map { bytes, reason: e.to_string() })
}

/// Gives the memory to a VM. The caller keeps `memory` alive for as long as
/// the VM exists.
pub(crate) fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let description = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr().addr() as u64,
        };
        // SAFETY: the region is a live mapping of exactly this size, and the
        // caller keeps it until the VM is gone; slots do not overlap because
        // `GuestMemoryMmap` refuses overlapping regions.
        unsafe { vm.set_user_memory_region(description)? };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_is_split_around_the_gap() {
        assert_eq!(parts(512 * MIB), [(0, 512 * MIB)]);
        assert_eq!(parts(3072 * MIB), [(0, 3072 * MIB)]);
        assert_eq!(parts(4096 * MIB), [(0, 3072 * MIB), (4096 * MIB, 1024 * MIB)]);
    }

    #[test]
    fn both_parts_share_one_file_and_stay_sparse() {
        use std::os::unix::fs::MetadataExt;
        let file = create_file(4096 * MIB).expect("memfd");
        let memory = map(&file, 4096 * MIB).expect("maps");
        memory.write_obj(7u8, GuestAddress(GAP_END)).expect("above the gap");
        assert!(memory.read_obj::<u8>(GuestAddress(GAP_START)).is_err());
        let mut byte = [0u8];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, GAP_START).expect("reads");
        assert_eq!(byte, [7]);
        let used = file.metadata().expect("stat").blocks() * 512;
        assert!(used <= 4 * MIB, "{used} bytes used");
    }
}
