//! One virtio-blk request: parsed from a chain, checked, executed.

use std::io;

use vm_memory::VolatileSlice;

use super::{
    CHAIN_MAX_BYTES, DISCARD_MAX_SECTORS, DISCARD_MAX_SEGMENTS, Disk, SECTOR_BYTES, Setup,
    ZEROES_MAX_SECTORS, ZEROES_MAX_SEGMENTS,
};
use crate::{
    counters::Counter,
    devices::chain::{Buffers, copy_in, copy_out, is_zero, part, total},
};

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPPORTED: u8 = 2;

/// Length of `struct virtio_blk_req` before the data.
const HEADER_BYTES: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`.
const SEGMENT_BYTES: usize = 16;
/// Length of the GET_ID reply.
const ID_BYTES: usize = 20;
/// Minimum length at which zeros written by the guest become a hole, as under QEMU: one qcow2
/// cluster. Below it, a hole costs the host more than writing zeros.
const ZEROS_MIN_BYTES: u64 = 64 << 10;
/// Flag of a write-zeroes segment that permits a hole.
const SEGMENT_UNMAP: u32 = 1;

/// A range of the disk, checked against its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    offset: u64,
    len: u64,
    unmap: bool,
}

/// The requested operation.
#[derive(Debug)]
enum Action<'a> {
    Read(u64, Vec<VolatileSlice<'a>>),
    Write(u64, Vec<VolatileSlice<'a>>),
    Flush,
    Id(Vec<VolatileSlice<'a>>),
    Discard(Vec<Extent>),
    WriteZeroes(Vec<Extent>),
    Refuse(u8),
}

/// A request with its status byte.
#[derive(Debug)]
pub(super) struct Request<'a> {
    action: Action<'a>,
    status: Vec<VolatileSlice<'a>>,
}

impl<'a> Request<'a> {
    /// Parses a chain. `None` if it has no header or no room for a status.
    pub(super) fn parse(buffers: &Buffers<'a>, disk_len: u64, setup: &Setup) -> Option<Self> {
        let room = total(&buffers.writable);
        let status = part(&buffers.writable, room.checked_sub(1)?, 1);
        let mut header = [0; HEADER_BYTES];
        if copy_out(&buffers.readable, &mut header) < HEADER_BYTES {
            return None;
        }
        let kind = u32::from_le_bytes(field(&header, 0));
        let sector = u64::from_le_bytes(field(&header, 8));
        let from_guest = part(&buffers.readable, HEADER_BYTES, CHAIN_MAX_BYTES);
        let to_guest = part(&buffers.writable, 0, room - 1);
        let action = match kind {
            T_OUT | T_DISCARD | T_WRITE_ZEROES if setup.read_only => Action::Refuse(S_IOERR),
            T_IN => data(sector, to_guest, disk_len, Action::Read),
            T_OUT => data(sector, from_guest, disk_len, Action::Write),
            T_FLUSH => Action::Flush,
            T_GET_ID if room > ID_BYTES => Action::Id(to_guest),
            T_GET_ID => Action::Refuse(S_IOERR),
            T_DISCARD => ranges(&from_guest, disk_len, &DISCARD, Action::Discard),
            T_WRITE_ZEROES => ranges(&from_guest, disk_len, &ZEROES, Action::WriteZeroes),
            _ => Action::Refuse(S_UNSUPPORTED),
        };
        Some(Self { action, status })
    }

    /// Executes the request, and returns the number of bytes written into the chain.
    pub(super) fn carry_out(self, disk: &mut Disk) -> u32 {
        let mut written = 0;
        let (name, result) = match self.action {
            Action::Refuse(status) => {
                copy_in(&self.status, &[status]);
                return 1;
            }
            Action::Read(offset, slices) => {
                written = total(&slices);
                let result = disk.image.read(&slices, offset);
                disk.counters.add(Counter::BlockBytesRead, written as u64);
                ("read", result)
            }
            Action::Write(offset, slices) => {
                let len = total(&slices) as u64;
                let result = if len >= ZEROS_MIN_BYTES && is_zero(&slices) {
                    give_back(disk, &[Extent { offset, len, unmap: true }], false)
                } else {
                    disk.image.write(&slices, offset)
                };
                disk.counters.add(Counter::BlockBytesWritten, len);
                ("write", result)
            }
            Action::Flush => ("flush", disk.image.flush(disk.setup.durable)),
            Action::Id(slices) => {
                let mut id = [0; ID_BYTES];
                let serial = disk.setup.serial.as_str().as_bytes();
                id[..serial.len()].copy_from_slice(serial); // at most 20 by its type
                written = copy_in(&slices, &id);
                ("tell its serial", Ok(()))
            }
            Action::Discard(extents) => ("discard", give_back(disk, &extents, true)),
            Action::WriteZeroes(extents) => ("write zeros", give_back(disk, &extents, false)),
        };
        let status = match result {
            Ok(()) => S_OK,
            Err(error) => {
                disk.failed(name, &error);
                S_IOERR
            }
        };
        copy_in(&self.status, &[status]);
        u32::try_from(written + 1).unwrap_or(u32::MAX)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

/// Checks a range of sectors against the disk size.
fn extent(sector: u64, len: u64, disk_len: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let end = offset.checked_add(len)?;
    (end <= disk_len && len.is_multiple_of(SECTOR_BYTES)).then_some(offset)
}

fn data<'a>(
    sector: u64,
    slices: Vec<VolatileSlice<'a>>,
    disk_len: u64,
    action: fn(u64, Vec<VolatileSlice<'a>>) -> Action<'a>,
) -> Action<'a> {
    match extent(sector, total(&slices) as u64, disk_len) {
        Some(offset) => action(offset, slices),
        None => Action::Refuse(S_IOERR),
    }
}

/// The limits of one request, as the configuration space reports them to the driver.
struct Most {
    segments: u32,
    sectors: u32,
}

const DISCARD: Most = Most { segments: DISCARD_MAX_SEGMENTS, sectors: DISCARD_MAX_SECTORS };
const ZEROES: Most = Most { segments: ZEROES_MAX_SEGMENTS, sectors: ZEROES_MAX_SECTORS };

/// Reads the segments of a discard or write-zeroes request. By the specification, an unknown flag,
/// or "unmap" on a discard, is "unsupported".
fn ranges<'a>(
    slices: &[VolatileSlice<'_>],
    disk_len: u64,
    most: &Most,
    action: fn(Vec<Extent>) -> Action<'a>,
) -> Action<'a> {
    let bytes = total(slices);
    let bytes_max = SEGMENT_BYTES * most.segments as usize;
    if bytes == 0 || !bytes.is_multiple_of(SEGMENT_BYTES) || bytes > bytes_max {
        return Action::Refuse(S_IOERR);
    }
    let mut raw = vec![0; bytes];
    copy_out(slices, &mut raw);
    let mut extents = Vec::new();
    for segment in raw.chunks_exact(SEGMENT_BYTES) {
        let sector = u64::from_le_bytes(field(segment, 0));
        let sectors = u32::from_le_bytes(field(segment, 8));
        let flags = u32::from_le_bytes(field(segment, 12));
        if flags & !SEGMENT_UNMAP != 0 {
            return Action::Refuse(S_UNSUPPORTED);
        }
        let len = u64::from(sectors) * SECTOR_BYTES;
        match extent(sector, len, disk_len) {
            Some(offset) if sectors <= most.sectors => {
                extents.push(Extent { offset, len, unmap: flags & SEGMENT_UNMAP != 0 });
            }
            _ => return Action::Refuse(S_IOERR),
        }
    }
    extents.retain(|extent| extent.len > 0);
    action(extents)
}

fn give_back(disk: &mut Disk, extents: &[Extent], discard: bool) -> io::Result<()> {
    for Extent { offset, len, unmap } in extents {
        let freed = if discard {
            disk.image.discard(*offset, *len)?
        } else {
            disk.image.write_zeroes(*offset, *len, *unmap)?
        };
        disk.counters.add(Counter::BlockBytesDiscarded, freed);
    }
    Ok(())
}
