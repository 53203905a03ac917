//! What a disk image can do, whatever its format.

use std::io;

use vm_memory::VolatileSlice;

/// A disk image. Offsets and lengths are checked against [`Image::len`] by the
/// caller and are multiples of 512.
pub(crate) trait Image: Send + std::fmt::Debug {
    /// Size in bytes.
    fn len(&self) -> u64;
    /// The unit in bytes in which space can be given back.
    fn granularity(&self) -> u64;
    /// Reads into guest memory.
    fn read(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;
    /// Writes from guest memory.
    fn write(&mut self, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes a range read as zeros; says how many bytes went back to the host.
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<u64>;
    /// Gives a range back to the host as far as possible; what it reads as
    /// afterwards is undefined. Says how many bytes went back.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<u64>;
    /// Brings the file into a consistent state, and onto stable storage when
    /// `durable` is set.
    fn flush(&mut self, durable: bool) -> io::Result<()>;
}

/// Makes an image on top of another; a failure gives the other one back.
pub(crate) type NewLayer =
    Box<dyn FnOnce(Box<dyn Image>) -> Result<Box<dyn Image>, (Box<dyn Image>, io::Error)> + Send>;

/// What stands in for an image while it is being replaced.
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
