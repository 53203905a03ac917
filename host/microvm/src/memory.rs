//! Guest memory: mapped below and above the gap for devices, allocated lazily, and registered with
//! KVM.
//!
//! It is a private anonymous mapping instead of a memfd, because only this process uses it, and
//! because distributions' default settings do not enable huge pages for memfds. Without huge pages,
//! the first access to every 4 KiB is an exit; with them the KVM lab boots in 0.6 of the time.

use std::{fs::File, io, os::fd::FromRawFd};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion, mmap::MmapRegionError,
};

use crate::layout::{GAP_END, GAP_START};

/// The memory mapped by one page directory entry.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// A multiple of it, larger than gaps between other mappings.
const SPACER_BYTES: usize = 256 << 20;

/// Errors of creating guest memory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// A memory file cannot be created or sized.
    #[error("failed to create a memory file of {bytes} bytes")]
    Create {
        /// Its size.
        bytes: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A region cannot be mapped.
    #[error("failed to map {bytes} bytes of guest memory: {reason}")]
    Map {
        /// The size of the region.
        bytes: u64,
        /// The error of the mapping.
        reason: String,
    },
}

/// The regions of RAM as (guest address, bytes), in ascending order.
pub(crate) fn parts(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= GAP_START {
        vec![(0, bytes)]
    } else {
        vec![(0, GAP_START), (GAP_END, bytes - GAP_START)]
    }
}

/// Creates a memory file to be shared by two processes.
pub(crate) fn create_file(bytes: u64) -> Result<File, MemoryError> {
    let failed = |source| MemoryError::Create { bytes, source };
    // SAFETY: the name is a NUL-terminated literal; the call has no other
    // memory arguments.
    let fd = unsafe { libc::memfd_create(c"vbuild-shared".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was just created and has no other owner.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes).map_err(failed)?;
    Ok(file)
}

/// Maps the guest's RAM at the guest addresses of [`parts`]. It is not touched, so the host
/// allocates pages only as the guest uses them.
pub(crate) fn create(bytes: u64) -> Result<GuestMemoryMmap, MemoryError> {
    let mut regions = Vec::new();
    for (address, len) in parts(bytes) {
        let failed = |reason: String| MemoryError::Map { bytes: len, reason };
        let size = usize::try_from(len).map_err(|e| failed(e.to_string()))?;
        let region = aligned(size).map_err(|e| failed(e.to_string()))?;
        // SAFETY: the range is exactly a mapping that was just made and that nothing
        // refers to yet; the advice changes no content.
        let advised = unsafe { libc::madvise(region.as_ptr().cast(), size, libc::MADV_HUGEPAGE) };
        // A kernel without huge pages returns an error; then the guest starts more slowly.
        let _ = advised;
        let region = GuestRegionMmap::new(region, GuestAddress(address))
            .ok_or_else(|| failed("it ends beyond the address space".to_owned()))?;
        regions.push(region);
    }
    GuestMemoryMmap::from_regions(regions)
        .map_err(|e| MemoryError::Map { bytes, reason: e.to_string() })
}

fn map(size: usize) -> Result<MmapRegion, MmapRegionError> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    MmapRegion::build(None, size, protection, flags)
}

/// Creates a mapping with huge page alignment, if possible: otherwise KVM cannot use huge pages for
/// the guest, whose RAM begins at such an address. The kernel places mappings downwards, so a
/// spacer of the right size moves the next mapping to an aligned address.
fn aligned(size: usize) -> Result<MmapRegion, MmapRegionError> {
    let first = map(size)?;
    let surplus = |region: &MmapRegion| region.as_ptr().addr() % HUGE_PAGE_BYTES;
    if surplus(&first) == 0 {
        return Ok(first);
    }
    let below = first.as_ptr().addr().wrapping_sub(size) % HUGE_PAGE_BYTES;
    let spacer = map(SPACER_BYTES + below);
    match (spacer, map(size)) {
        (Ok(_), Ok(second)) if surplus(&second) == 0 => Ok(second),
        // Without huge pages the guest is only slower.
        _ => Ok(first),
    }
}

/// Registers the memory with a VM. The caller must keep `memory` alive for as long as the VM
/// exists.
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

/// The part of the memory that the host has allocated, in bytes.
#[cfg(test)]
pub(crate) fn resident_bytes(memory: &GuestMemoryMmap) -> u64 {
    use std::os::unix::fs::FileExt;
    /// The highest bit of a pagemap entry means that the page is present; see proc(5).
    const PRESENT: u8 = 0x80;
    const PAGE_BYTES: usize = 4096;
    let pages = File::open("/proc/self/pagemap").unwrap();
    let of_region = |region: &GuestRegionMmap| {
        let mut entries = vec![0; region.size() / PAGE_BYTES * 8];
        let first = region.as_ptr().addr() / PAGE_BYTES * 8;
        pages.read_exact_at(&mut entries, first as u64).unwrap();
        let present = entries.chunks_exact(8).filter(|entry| entry[7] & PRESENT != 0);
        (present.count() * PAGE_BYTES) as u64
    };
    memory.iter().map(of_region).sum()
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
    fn both_parts_are_there_and_stay_sparse() {
        let memory = create(4096 * MIB).expect("maps");
        memory.write_obj(7u8, GuestAddress(GAP_END)).expect("above the gap");
        let used = resident_bytes(&memory);
        assert!((1..=4 * MIB).contains(&used), "{used} bytes used");
        memory.write_obj(8u8, GuestAddress(GAP_START - 1)).expect("below the gap");
        assert!(memory.read_obj::<u8>(GuestAddress(GAP_START)).is_err());
        assert!(memory.write_obj(9u8, GuestAddress(GAP_END + 1024 * MIB)).is_err());
        assert_eq!(memory.read_obj::<u8>(GuestAddress(GAP_END)).expect("reads"), 7);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0)).expect("reads"), 0);
    }

    #[test]
    fn mappings_begin_where_huge_pages_do() {
        // Other tests create mappings meanwhile, which may interfere.
        let begins = |size| aligned(size).expect("maps").as_ptr().addr() % HUGE_PAGE_BYTES;
        for size in [64 << 20, (64 << 20) + 4096] {
            assert!((0..100).any(|_| begins(size) == 0), "{size} bytes");
        }
    }
}
