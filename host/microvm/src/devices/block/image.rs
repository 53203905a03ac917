//! The operations of a disk image, independent of its format.

use std::io;

use vm_memory::VolatileSlice;

/// A disk image. Offsets and lengths are checked against [`Image::len`] by the
/// caller and are multiples of 512.
pub(crate) trait Image: Send + std::fmt::Debug {
    /// Size in bytes.
    fn len(&self) -> u64;
    /// The unit of discards in bytes.
    fn granularity(&self) -> u64;
    /// Reads into guest memory.
    fn read(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;
    /// Writes from guest memory.
    fn write(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes a range read as zeros; returns the number of bytes freed on the host.
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<u64>;
    /// Frees a range on the host as far as possible; its content is undefined afterwards. Returns
    /// the number of bytes freed.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<u64>;
    /// Makes the file consistent, and stable on disk if `durable`.
    fn flush(&mut self, durable: bool) -> io::Result<()>;
}

/// Creates an image on top of another; on failure the other one is returned.
pub(crate) type NewLayer =
    Box<dyn FnOnce(Box<dyn Image>) -> Result<Box<dyn Image>, (Box<dyn Image>, io::Error)> + Send>;

/// The placeholder of an image while it is replaced.
#[derive(Debug)]
pub(crate) struct Absent;

fn absent<T>() -> io::Result<T> {
    Err(io::Error::other("the image is being replaced"))
}

impl Image for Absent {
    fn len(&self) -> u64 {
        0
    }
    fn granularity(&self) -> u64 {
        512
    }
    fn read(&mut self, _: &[VolatileSlice<'_>], _: u64) -> io::Result<()> {
        absent()
    }
    fn write(&mut self, _: &[VolatileSlice<'_>], _: u64) -> io::Result<()> {
        absent()
    }
    fn write_zeroes(&mut self, _: u64, _: u64, _: bool) -> io::Result<u64> {
        absent()
    }
    fn discard(&mut self, _: u64, _: u64) -> io::Result<u64> {
        absent()
    }
    fn flush(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}
