//! Guest memory: mapped below and above the gap for devices, allocated lazily, and registered with
//! KVM.
//!
//! The memory of a restored machine is the same, except that blocks of which the saved file has
//! data are private mappings of the file: pages are read when the guest touches them, and copied
//! when it writes them. Blocks of zeros stay anonymous, with huge pages.
//!
//! It is a private anonymous mapping instead of a memfd, because only this process uses it, and
//! because distributions' default settings do not enable huge pages for memfds. Without huge pages,
//! the first access to every 4 KiB is an exit; with them the KVM lab boots in 0.6 of the time.

use std::{
    fs::File,
    io,
    ops::Range,
    os::fd::{AsRawFd, FromRawFd},
};

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
        /// The size of the memory file in bytes.
        bytes: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file of a saved memory cannot be used.
    #[error("the saved memory cannot be used")]
    Saved(#[source] io::Error),
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

/// Maps the RAM of a restored machine: as [`create`] does, with the data of this file, which has
/// the regions one after the other. The file stays as it is.
pub(crate) fn restore(bytes: u64, file: &File) -> Result<GuestMemoryMmap, MemoryError> {
    let there = file.metadata().map_err(MemoryError::Saved)?.len();
    if there != bytes {
        let text = format!("it has {there} bytes, and the machine {bytes}");
        return Err(MemoryError::Saved(io::Error::other(text)));
    }
    let memory = create(bytes)?;
    let mut offset = 0;
    for region in memory.iter() {
        for block in blocks_with_data(file, region.len(), offset).map_err(MemoryError::Saved)? {
            map_file(region, block, file, offset).map_err(MemoryError::Saved)?;
        }
        offset += region.len();
    }
    Ok(memory)
}

/// The parts of a region with data in the file, in whole huge pages: so there are few of them,
/// and none takes the place of a huge page. The region begins at this offset of the file.
fn blocks_with_data(file: &File, len: u64, offset: u64) -> io::Result<Vec<Range<u64>>> {
    const BLOCK: u64 = HUGE_PAGE_BYTES as u64;
    let mut blocks: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < len {
        let Some(data) = sparse::next_data(file, offset + at)? else { break };
        let (first, end) = (data.start.saturating_sub(offset), data.end.saturating_sub(offset));
        if first >= len {
            break;
        }
        let block = first / BLOCK * BLOCK..end.next_multiple_of(BLOCK).min(len);
        at = block.end;
        match blocks.last_mut() {
            Some(last) if last.end >= block.start => last.end = block.end,
            _ => blocks.push(block),
        }
    }
    Ok(blocks)
}

/// Maps a part of the file over the same part of a region, which begins at `offset` of the file.
fn map_file(
    region: &GuestRegionMmap,
    part: Range<u64>,
    file: &File,
    offset: u64,
) -> io::Result<()> {
    let range = || io::Error::from(io::ErrorKind::InvalidInput);
    let start = usize::try_from(part.start).map_err(|_| range())?;
    let len = usize::try_from(part.end - part.start).map_err(|_| range())?;
    if start.checked_add(len).is_none_or(|end| end > region.size()) {
        return Err(range());
    }
    let file_offset = libc::off_t::try_from(offset + part.start).map_err(|_| range())?;
    let address = region.as_ptr().wrapping_add(start).cast();
    // SAFETY: the range lies inside of the region's own anonymous mapping, which nobody uses yet;
    // its new pages are private too, as long, and unmapped with the region.
    let mapped = unsafe {
        libc::mmap(
            address,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            file_offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is the mapping that was just made; the advice changes no content. It marks
    // the mapping as the guest's memory for those who measure it; an error does not matter.
    let _ = unsafe { libc::madvise(address, len, libc::MADV_HUGEPAGE) };
    Ok(())
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
