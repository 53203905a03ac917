//! A descriptor chain as lists of memory slices, checked once.
//!
//! Each descriptor is read from guest memory exactly once, so the guest cannot change it between
//! check and use. The queue size bounds the number of descriptors (the chain iterator counts them),
//! the caller bounds the number of bytes.

use std::io;

use virtio_queue::DescriptorChain;
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// Why a chain is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainError {
    /// A descriptor points outside of guest memory.
    #[error("a descriptor points outside of guest memory")]
    OutOfMemory,
    /// A device-readable descriptor follows a device-writable one.
    #[error("a readable descriptor follows a writable one")]
    Order,
    /// The chain exceeds the device's limit.
    #[error("a chain is too long")]
    TooLong,
}

/// The memory of a chain.
#[derive(Debug, Default)]
pub(crate) struct Buffers<'a> {
    /// Device-readable memory.
    pub(crate) readable: Vec<VolatileSlice<'a>>,
    /// Device-writable memory.
    pub(crate) writable: Vec<VolatileSlice<'a>>,
}

impl<'a> Buffers<'a> {
    /// Collects the slices of a chain.
    pub(crate) fn collect(
        memory: &'a GuestMemoryMmap,
        chain: DescriptorChain<&GuestMemoryMmap>,
        max_bytes: usize,
    ) -> Result<Self, ChainError> {
        let mut buffers = Self::default();
        let mut left = max_bytes;
        for descriptor in chain {
            let len = usize::try_from(descriptor.len()).map_err(|_| ChainError::TooLong)?;
            left = left.checked_sub(len).ok_or(ChainError::TooLong)?;
            let writable = descriptor.is_write_only();
            if !writable && !buffers.writable.is_empty() {
                return Err(ChainError::Order);
            }
            let access = if writable { Permissions::Write } else { Permissions::Read };
            let list = if writable { &mut buffers.writable } else { &mut buffers.readable };
            if len == 0 {
                continue;
            }
            push_slices(memory, descriptor.addr(), len, access, list)?;
        }
        Ok(buffers)
    }
}

fn push_slices<'a>(
    memory: &'a GuestMemoryMmap,
    address: GuestAddress,
    len: usize,
    access: Permissions,
    list: &mut Vec<VolatileSlice<'a>>,
) -> Result<(), ChainError> {
    let slices = GuestMemory::get_slices(memory, address, len, access)
        .map_err(|_| ChainError::OutOfMemory)?;
    let mut found = 0;
    for slice in slices {
        let slice = slice.map_err(|_| ChainError::OutOfMemory)?;
        found += slice.len();
        list.push(slice);
    }
    if found == len { Ok(()) } else { Err(ChainError::OutOfMemory) }
}

/// The total length of a list of slices.
pub(crate) fn total(slices: &[VolatileSlice<'_>]) -> usize {
    slices.iter().map(VolatileSlice::len).sum()
}

/// The part of a list of slices from `start` on, `len` bytes long; shorter if
/// the list ends earlier.
pub(crate) fn part<'a>(
    slices: &[VolatileSlice<'a>],
    start: usize,
    len: usize,
) -> Vec<VolatileSlice<'a>> {
    let (mut skip, mut left) = (start, len);
    let mut out = Vec::new();
    for slice in slices {
        if left == 0 {
            break;
        }
        if skip >= slice.len() {
            skip -= slice.len();
            continue;
        }
        let take = (slice.len() - skip).min(left);
        if let Ok(piece) = slice.subslice(skip, take) {
            out.push(piece);
        }
        left -= take;
        skip = 0;
    }
    out
}

/// Copies from the start of a list of slices; returns the number of bytes copied.
pub(crate) fn copy_out(slices: &[VolatileSlice<'_>], into: &mut [u8]) -> usize {
    let mut done = 0;
    for slice in slices {
        let Some(rest) = into.get_mut(done..).filter(|rest| !rest.is_empty()) else { break };
        done += slice.copy_to(rest);
    }
    done
}

/// Copies to the start of a list of slices; returns the number of bytes copied.
pub(crate) fn copy_in(slices: &[VolatileSlice<'_>], from: &[u8]) -> usize {
    let mut done = 0;
    for slice in slices {
        let rest = from.get(done..).unwrap_or(&[]);
        let len = rest.len().min(slice.len());
        if len == 0 {
            continue;
        }
        slice.copy_from(&rest[..len]);
        done += len;
    }
    done
}

/// A block of zeros, to compare with and to write.
const ZEROS: [u8; 4096] = [0; 4096];

/// Whether a list of slices contains only zeros. The guest may change it meanwhile, as it may
/// change any data being written.
pub(crate) fn is_zero(slices: &[VolatileSlice<'_>]) -> bool {
    let mut copy = ZEROS;
    slices.iter().all(|slice| {
        let mut done = 0;
        while let Ok(rest) = slice.offset(done) {
            let len = rest.copy_to(&mut copy);
            if len == 0 {
                break;
            }
            if copy[..len] != ZEROS[..len] {
                return false;
            }
            done += len;
        }
        true
    })
}

/// Writes zeros over a list of slices.
pub(crate) fn zero(slices: &[VolatileSlice<'_>]) {
    for slice in slices {
        let mut done = 0;
        while let Ok(rest) = slice.offset(done) {
            let len = rest.len().min(ZEROS.len());
            if len == 0 {
                break;
            }
            rest.copy_from(&ZEROS[..len]);
            done += len;
        }
    }
}

/// Positioned vectored I/O between a file and guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the file into guest memory.
    Read,
    /// From guest memory into the file.
    Write,
}

/// Maximum slices in one call (`UIO_MAXIOV`).
const IOV_MAX: usize = 1024;

/// Transfers all bytes of `slices` from or to the file at `offset`.
///
/// # Errors
/// Returns the kernel's error, or `UnexpectedEof` if the file ends early.
pub(crate) fn transfer(
    file: &std::fs::File,
    direction: Direction,
    slices: &[VolatileSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut done = 0;
    let all = total(slices);
    while done < all {
        let rest = part(slices, done, all - done);
        let guards: Vec<_> =
            rest.iter().take(IOV_MAX).map(|s| (s.ptr_guard_mut(), s.len())).collect();
        let iov: Vec<libc::iovec> = guards
            .iter()
            .map(|(guard, len)| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: *len })
            .collect();
        let count = libc::c_int::try_from(iov.len()).map_err(io::Error::other)?;
        let at = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: every entry of `iov` is a live slice of guest memory, kept
        // mapped by `guards`; that memory is shared with the guest and only
        // ever accessed through raw pointers, so the kernel may write to it.
        let moved = unsafe {
            match direction {
                Direction::Read => libc::preadv(file.as_raw_fd(), iov.as_ptr(), count, at),
                Direction::Write => libc::pwritev(file.as_raw_fd(), iov.as_ptr(), count, at),
            }
        };
        match usize::try_from(moved) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => {
                done += moved;
                offset += moved as u64;
            }
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn parts_cross_slices() {
        let mut a = [1u8, 2, 3];
        let mut b = [4u8, 5, 6];
        let slices = [VolatileSlice::from(&mut a[..]), VolatileSlice::from(&mut b[..])];
        let mut out = [0; 6];
        assert_eq!(copy_out(&part(&slices, 2, 2), &mut out), 2);
        assert_eq!(out[..2], [3, 4]);
        assert_eq!(total(&part(&slices, 1, 100)), 5);
        assert_eq!(copy_in(&part(&slices, 1, 4), &[9; 9]), 4);
        assert!(!is_zero(&slices));
        zero(&slices[1..]);
        assert!(is_zero(&slices[1..]) && !is_zero(&slices));
        assert_eq!((a, b), ([1, 9, 9], [0, 0, 0]));
    }

    #[test]
    fn the_last_byte_counts() {
        let mut bytes = vec![0; 3 * ZEROS.len() + 5];
        assert!(is_zero(&[VolatileSlice::from(&mut bytes[..])]));
        *bytes.last_mut().unwrap() = 1;
        assert!(!is_zero(&[VolatileSlice::from(&mut bytes[..])]));
        assert!(is_zero(&[]));
    }

    #[test]
    fn a_transfer_moves_everything_or_says_why_not() {
        let file = tempfile::tempfile().unwrap();
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x2000)]).unwrap();
        memory.write_slice(b"hello", GuestAddress(0xffe)).unwrap();
        let mut slices = Vec::new();
        push_slices(&memory, GuestAddress(0xffe), 5, Permissions::Read, &mut slices).unwrap();
        transfer(&file, Direction::Write, &slices, 7).unwrap();
        let mut back = Vec::new();
        push_slices(&memory, GuestAddress(0), 5, Permissions::Write, &mut back).unwrap();
        transfer(&file, Direction::Read, &back, 7).unwrap();
        let mut bytes = [0; 5];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        assert_eq!(&bytes, b"hello");
        let error = transfer(&file, Direction::Read, &back, 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let outside = push_slices(&memory, GuestAddress(0x1fff), 2, Permissions::Read, &mut back);
        assert_eq!(outside, Err(ChainError::OutOfMemory));
    }
}
