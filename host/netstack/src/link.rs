//! The link to the card: length-prefixed frames on a stream, as a smoltcp device.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use smoltcp::{
    phy::{self, Device, DeviceCapabilities, Medium},
    time::Instant,
};

/// Maximum Ethernet frame without checksum: 1500 bytes plus the header.
const MTU: usize = 1514;
/// Length prefix of each frame, in bytes.
const LENGTH_BYTES: usize = 4;
/// Maximum frame that QEMU sends, whatever the card negotiates (`NET_BUFSIZE`).
const FRAME_MAX_BYTES: usize = 4096 + 65536;
/// Maximum bytes queued for the card; if the queue is full, nothing is sent and nothing is read.
const OUT_MAX_BYTES: usize = 256 << 10;
/// Bytes read per call.
const READ_BYTES: usize = 64 << 10;

/// The stream, with its buffers.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The next frame for smoltcp.
    pub(crate) next: Option<Vec<u8>>,
}

/// The result of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The stream is open; there may be frames.
    Open,
    /// The peer has closed the stream.
    Closed,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, input: Vec::new(), output: Vec::new(), next: None })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether data for the card is queued.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether there is room for the response to a frame.
    pub(crate) fn has_room(&self) -> bool {
        self.output.len() < OUT_MAX_BYTES
    }

    /// Reads available data, up to one frame of maximum size beyond the unprocessed data.
    pub(crate) fn read(&mut self) -> io::Result<Progress> {
        if self.input.len() >= LENGTH_BYTES + FRAME_MAX_BYTES {
            return Ok(Progress::Open);
        }
        let held = self.input.len();
        self.input.resize(held + READ_BYTES, 0);
        let read = self.stream.read(&mut self.input[held..]);
        self.input.truncate(held + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Ok(Progress::Closed),
            Ok(_) => Ok(Progress::Open),
            Err(error) if is_not_now(&error) => Ok(Progress::Open),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Progress::Closed),
            Err(error) => Err(error),
        }
    }

    /// Takes the next complete frame. Frames larger than the MTU are dropped, as a switch does.
    pub(crate) fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some((length, rest)) = self.input.split_first_chunk::<LENGTH_BYTES>() else {
                return Ok(None);
            };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > FRAME_MAX_BYTES {
                let reason = format!("the card sent a frame of {length} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            let Some(frame) = rest.get(..length) else { return Ok(None) };
            let frame = (length <= MTU).then(|| frame.to_vec());
            self.input.drain(..LENGTH_BYTES + length);
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }

    /// Writes as much as the card accepts now.
    pub(crate) fn flush(&mut self) -> io::Result<Progress> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if is_not_now(&error) => break,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Progress::Closed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Progress::Open)
    }
}

/// Whether a call on a non-blocking stream must be repeated later.
pub(crate) fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// A received frame, as a smoltcp token.
#[derive(Debug)]
pub(crate) struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

/// Room to send a frame, as a smoltcp token.
#[derive(Debug)]
pub(crate) struct Room<'a>(&'a mut Vec<u8>);

impl phy::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let Self(output) = self;
        // smoltcp creates no frame beyond its MTU.
        output.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        let start = output.len();
        output.resize(start + length, 0);
        fill(&mut output[start..])
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        let frame = self.next.take()?;
        Some((Received(frame), Room(&mut self.output)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        self.has_room().then_some(Room(&mut self.output))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}
