//! Descriptor chains as lists of guest memory slices: every address and length is checked here
//! once, so that the rest of the crate only handles valid memory.

use std::{io, os::unix::net::UnixStream};

use virtio_queue::DescriptorChain;
use vm_memory::{
    Bytes, GuestMemory, Permissions, ReadVolatile, VolatileMemoryError, VolatileSlice,
    WriteVolatile,
    bitmap::{BS, BitmapSlice},
};

use crate::{
    PACKET_MAX_BYTES,
    packet::{HEADER_BYTES, Header},
};

/// Maximum slices of a chain: a packet of 64 KiB on 4 KiB pages needs 17 slices and one for its
/// header; Linux has at most `MAX_SKB_FRAGS` (45) fragments. Longer chains are refused, because an
/// indirect table may contain 65,535 descriptors.
const SLICES_MAX: usize = 64;

/// The memory of one chain, in order.
pub(crate) struct ChainMemory<'a, B> {
    slices: Vec<VolatileSlice<'a, B>>,
    bytes: usize,
}

impl<'a, B: BitmapSlice> ChainMemory<'a, B> {
    /// The device-readable part of a chain; `None` if the chain leaves guest memory, loops or is
    /// too long.
    pub(crate) fn readable<M>(mem: &'a M, chain: DescriptorChain<&'a M>) -> Option<Self>
    where
        M: GuestMemory<Bitmap: vm_memory::bitmap::WithBitmapSlice<'a, S = B>>,
    {
        let wanted = chain.readable().map(|d| (d.addr(), d.len()));
        Self::gather(mem, wanted, Permissions::Read)
    }

    /// The device-writable part of a chain; `None` as for [`Self::readable`].
    pub(crate) fn writable<M>(mem: &'a M, chain: DescriptorChain<&'a M>) -> Option<Self>
    where
        M: GuestMemory<Bitmap: vm_memory::bitmap::WithBitmapSlice<'a, S = B>>,
    {
        let wanted = chain.writable().map(|d| (d.addr(), d.len()));
        Self::gather(mem, wanted, Permissions::Write)
    }

    fn gather<M>(
        mem: &'a M,
        descriptors: impl Iterator<Item = (vm_memory::GuestAddress, u32)>,
        access: Permissions,
    ) -> Option<Self>
    where
        M: GuestMemory<Bitmap: vm_memory::bitmap::WithBitmapSlice<'a, S = B>>,
    {
        let mut gathered = Self { slices: Vec::with_capacity(2), bytes: 0 };
        let mut seen = 0_usize;
        for (address, len) in descriptors {
            seen += 1;
            if seen > SLICES_MAX {
                return None;
            }
            // Memory beyond the largest packet is never accessed.
            let room = (HEADER_BYTES + PACKET_MAX_BYTES).saturating_sub(gathered.bytes);
            let len = usize::try_from(len).ok()?.min(room);
            for slice in mem.get_slices(address, len, access).ok()? {
                let slice: VolatileSlice<'a, BS<'a, M::Bitmap>> = slice.ok()?;
                gathered.bytes = gathered.bytes.checked_add(slice.len())?;
                gathered.slices.push(slice);
            }
        }
        Some(gathered)
    }

    /// The total size of all slices in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads the header at the start; `None` if the chain is shorter.
    pub(crate) fn read_header(&self) -> Option<Header> {
        let mut bytes = [0; HEADER_BYTES];
        let mut done = 0;
        for slice in &self.slices {
            let part = slice.len().min(HEADER_BYTES - done);
            slice.read_slice(&mut bytes[done..done + part], 0).ok()?;
            done += part;
            if done == HEADER_BYTES {
                return Some(Header::from_bytes(&bytes));
            }
        }
        None
    }

    /// Writes the header at the start; the caller must have checked the length.
    pub(crate) fn write_header(&self, header: Header) -> Option<()> {
        let bytes = header.to_bytes();
        let mut done = 0;
        for slice in &self.slices {
            let part = slice.len().min(HEADER_BYTES - done);
            slice.write_slice(&bytes[done..done + part], 0).ok()?;
            done += part;
            if done == HEADER_BYTES {
                return Some(());
            }
        }
        None
    }

    /// The slices of `len` bytes at offset `from` in the payload.
    fn payload(&self, from: usize, len: usize) -> impl Iterator<Item = VolatileSlice<'a, B>> {
        let mut skip = HEADER_BYTES + from;
        let mut left = len;
        self.slices.iter().filter_map(move |slice| {
            let start = skip.min(slice.len());
            skip -= start;
            let part = left.min(slice.len() - start);
            left -= part;
            if part == 0 { None } else { slice.subslice(start, part).ok() }
        })
    }

    /// Reads at most `len` bytes from `stream` directly into the payload. A short count means that
    /// the stream had no more.
    pub(crate) fn fill_from(&self, stream: &UnixStream, len: usize) -> io::Result<usize> {
        let mut done = 0;
        for mut slice in self.payload(0, len) {
            match retry(|| (&mut &*stream).read_volatile(&mut slice)) {
                Ok(count) => {
                    done += count;
                    if count < slice.len() {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(cause) => return Err(cause),
            }
        }
        Ok(done)
    }

    /// Writes `len` bytes of payload directly to `stream`. A short count means that the stream
    /// accepted no more.
    pub(crate) fn drain_to(&self, stream: &UnixStream, len: usize) -> io::Result<usize> {
        let mut done = 0;
        for slice in self.payload(0, len) {
            match retry(|| (&mut &*stream).write_volatile(&slice)) {
                Ok(count) => {
                    done += count;
                    if count < slice.len() {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(cause) => return Err(cause),
            }
        }
        Ok(done)
    }

    /// Appends `len` bytes of payload from offset `from` to `out`.
    pub(crate) fn append_to(
        &self,
        from: usize,
        len: usize,
        out: &mut std::collections::VecDeque<u8>,
    ) {
        let mut copy = Vec::new();
        for slice in self.payload(from, len) {
            copy.resize(slice.len(), 0);
            slice.copy_to(&mut copy[..]);
            out.extend(&copy);
        }
    }
}

/// Repeats calls interrupted by a signal; converts memory errors to I/O errors.
fn retry(mut call: impl FnMut() -> Result<usize, VolatileMemoryError>) -> io::Result<usize> {
    loop {
        match call() {
            Ok(count) => return Ok(count),
            Err(VolatileMemoryError::IOError(cause))
                if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(VolatileMemoryError::IOError(cause)) => return Err(cause),
            Err(other) => return Err(io::Error::other(other)),
        }
    }
}
