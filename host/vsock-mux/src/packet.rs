//! The header of a virtio-vsock packet (virtio 1.2, section 5.10.6) as plain data. The bytes are
//! parsed into a [`Header`] once, and all decisions use this copy, so a guest cannot change it
//! afterwards.

/// Size of a header on the wire (`struct virtio_vsock_hdr`, packed).
pub(crate) const HEADER_BYTES: usize = 44;

/// The only supported socket type (`VIRTIO_VSOCK_TYPE_STREAM`); SEQPACKET is not negotiated.
pub(crate) const TYPE_STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_RCV`: the sender will receive no more.
pub(crate) const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_SEND`: the sender will send no more.
pub(crate) const SHUTDOWN_SEND: u32 = 2;
/// Both directions.
pub(crate) const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// The operations of virtio-vsock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// Opens a connection.
    Request,
    /// Accepts a connection.
    Response,
    /// Refuses or resets a connection.
    Reset,
    /// Ends one or both directions.
    Shutdown,
    /// Carries data.
    ReadWrite,
    /// Announces the free space in the sender's buffer.
    CreditUpdate,
    /// Requests a [`Op::CreditUpdate`].
    CreditRequest,
}

impl Op {
    /// The operation of a wire number, if it is valid.
    pub(crate) fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::ReadWrite,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    /// The wire number.
    pub(crate) fn to_wire(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::ReadWrite => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

/// A packet header in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Header {
    /// Sender's context id.
    pub(crate) src_cid: u64,
    /// Receiver's context id.
    pub(crate) dst_cid: u64,
    /// Sender's port.
    pub(crate) src_port: u32,
    /// Receiver's port.
    pub(crate) dst_port: u32,
    /// Length of the payload after the header.
    pub(crate) len: u32,
    /// Socket type.
    pub(crate) kind: u16,
    /// Operation, see [`Op`].
    pub(crate) op: u16,
    /// Flags of the operation; only SHUTDOWN has any.
    pub(crate) flags: u32,
    /// Size of the sender's receive buffer.
    pub(crate) buf_alloc: u32,
    /// Bytes that the sender has consumed from it, modulo 2^32.
    pub(crate) fwd_cnt: u32,
}

impl Header {
    /// Parses a header.
    pub(crate) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            src_cid: long(0),
            dst_cid: long(8),
            src_port: word(16),
            dst_port: word(20),
            len: word(24),
            kind: half(28),
            op: half(30),
            flags: word(32),
            buf_alloc: word(36),
            fwd_cnt: word(40),
        }
    }

    /// Serializes a header.
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_where_the_specification_puts_them() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 2,
            src_port: 0x1111,
            dst_port: 0x2222,
            len: 0x3333,
            kind: TYPE_STREAM,
            op: Op::ReadWrite.to_wire(),
            flags: 0x4444,
            buf_alloc: 0x5555,
            fwd_cnt: 0x6666,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[16..18], [0x11, 0x11]);
        assert_eq!(bytes[24..26], [0x33, 0x33]);
        assert_eq!(bytes[28..32], [1, 0, 5, 0]);
        assert_eq!(bytes[40..42], [0x66, 0x66]);
        assert_eq!(Header::from_bytes(&bytes), header);
    }

    #[test]
    fn operations_round_trip_and_others_are_none() {
        for number in 0..20 {
            match Op::from_wire(number) {
                Some(op) => assert_eq!(op.to_wire(), number),
                None => assert!(!(1..=7).contains(&number)),
            }
        }
    }
}
