//! Reads and writes frames over `Read` and `Write`, and over async streams with the feature
//! `tokio`.

use std::{
    io::{self, Read, Write},
    ops::RangeInclusive,
};

use crate::{Channel, DATA_MAX_BYTES, HEADER_MAX_BYTES};

/// The size of the prefix before each payload, in bytes.
pub const PREFIX_BYTES: usize = 12;

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Opens a stream; the payload is a request as JSON.
    Request = 1,
    /// Answers on a stream; the payload is a reply as JSON.
    Reply = 2,
    /// Carries raw bytes on a channel, at least one.
    Data = 3,
    /// Ends the data on a channel in this direction.
    End = 4,
    /// Allows the other side to send more bytes on a channel.
    Credit = 5,
}

impl FrameKind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Request, Self::Reply, Self::Data, Self::End, Self::Credit]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    /// Returns the allowed lengths of a payload of this kind, in bytes. A data frame is never
    /// empty: an empty one would occupy queues without using credit.
    #[must_use]
    pub fn lengths(self) -> RangeInclusive<usize> {
        match self {
            Self::Request | Self::Reply => 0..=HEADER_MAX_BYTES,
            Self::Data => 1..=DATA_MAX_BYTES,
            Self::End => 0..=0,
            Self::Credit => 4..=4,
        }
    }
}

/// A frame of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The number of the stream to which the frame belongs; never 0.
    pub stream: u32,
    /// The kind of the frame.
    pub kind: FrameKind,
    /// The channel; [`Channel::Main`] for kinds to which channels do not apply.
    pub channel: Channel,
    /// The payload, without the prefix.
    pub payload: Vec<u8>,
}

/// An error while reading or writing a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed, or ended within a frame.
    #[error("the connection to the guest agent failed")]
    Io(#[from] io::Error),
    /// The protocol was violated: by the other side, or by a frame that is outside its limits.
    #[error("the guest agent's protocol was broken: {0}")]
    Protocol(String),
}

/// The parsed prefix of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The length of the payload that follows, in bytes.
    pub length: usize,
    /// The kind of the frame.
    pub kind: FrameKind,
    /// The channel of the frame.
    pub channel: Channel,
    /// The number of the frame's stream.
    pub stream: u32,
}

impl Prefix {
    /// Parses a prefix and checks every limit.
    ///
    /// # Errors
    /// Fails with [`FrameError::Protocol`] if the kind, the channel, the length, the reserved field
    /// or the stream is invalid.
    pub fn parse(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, channel, z0, z1, s0, s1, s2, s3] = *bytes;
        let broken = |what: &str| FrameError::Protocol(format!("{what} in prefix {bytes:02x?}"));
        let kind = FrameKind::from_number(kind).ok_or_else(|| broken("unknown frame kind"))?;
        let channel = Channel::from_number(channel).ok_or_else(|| broken("unknown channel"))?;
        let stream = u32::from_le_bytes([s0, s1, s2, s3]);
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3]))
            .map_err(|_| broken("length out of range"))?;
        if (z0, z1) != (0, 0) || stream == 0 {
            return Err(broken("bad reserved field or stream"));
        }
        if !kind.lengths().contains(&length) {
            return Err(broken("payload length outside its limit"));
        }
        Ok(Self { length, kind, channel, stream })
    }
}

impl Frame {
    /// Creates a data frame. The caller splits data at [`DATA_MAX_BYTES`], and sends no frame for
    /// no bytes.
    #[must_use]
    pub fn data(stream: u32, channel: Channel, payload: Vec<u8>) -> Self {
        Self { stream, kind: FrameKind::Data, channel, payload }
    }

    /// Creates an end frame.
    #[must_use]
    pub fn end(stream: u32, channel: Channel) -> Self {
        Self { stream, kind: FrameKind::End, channel, payload: Vec::new() }
    }

    /// Creates a credit frame that allows `bytes` more bytes.
    #[must_use]
    pub fn credit(stream: u32, channel: Channel, bytes: u32) -> Self {
        Self { stream, kind: FrameKind::Credit, channel, payload: bytes.to_le_bytes().to_vec() }
    }

    /// Creates a request frame.
    ///
    /// # Errors
    /// Fails if the request is larger than [`HEADER_MAX_BYTES`] as JSON.
    pub fn request(stream: u32, request: &crate::Request) -> Result<Self, FrameError> {
        Self::json(stream, FrameKind::Request, request)
    }

    /// Creates a reply frame.
    ///
    /// # Errors
    /// Fails if the reply is larger than [`HEADER_MAX_BYTES`] as JSON.
    pub fn reply(stream: u32, reply: &crate::Reply) -> Result<Self, FrameError> {
        Self::json(stream, FrameKind::Reply, reply)
    }

    fn json<T: serde::Serialize>(
        stream: u32,
        kind: FrameKind,
        value: &T,
    ) -> Result<Self, FrameError> {
        let payload = serde_json::to_vec(value)
            .map_err(|e| FrameError::Protocol(format!("cannot encode a header: {e}")))?;
        if payload.len() > HEADER_MAX_BYTES {
            return Err(FrameError::Protocol(format!(
                "a header of {} bytes is over the limit of {HEADER_MAX_BYTES}",
                payload.len()
            )));
        }
        Ok(Self { stream, kind, channel: Channel::Main, payload })
    }

    /// Parses the payload as a request.
    ///
    /// # Errors
    /// Fails if this is not a request frame, or if its payload is not a valid request.
    pub fn as_request(&self) -> Result<crate::Request, FrameError> {
        self.parse_json(FrameKind::Request)
    }

    /// Parses the payload as a reply.
    ///
    /// # Errors
    /// Fails if this is not a reply frame, or if its payload is not a valid reply.
    pub fn as_reply(&self) -> Result<crate::Reply, FrameError> {
        self.parse_json(FrameKind::Reply)
    }

    fn parse_json<T: serde::de::DeserializeOwned>(&self, kind: FrameKind) -> Result<T, FrameError> {
        if self.kind != kind {
            return Err(FrameError::Protocol(format!("{:?} where {kind:?} belongs", self.kind)));
        }
        serde_json::from_slice(&self.payload)
            .map_err(|e| FrameError::Protocol(format!("{kind:?} is not understood: {e}")))
    }

    /// Returns the number of bytes that a credit frame allows.
    ///
    /// # Errors
    /// Fails if this is not a credit frame.
    pub fn as_credit(&self) -> Result<u32, FrameError> {
        match (self.kind, self.payload.as_slice()) {
            (FrameKind::Credit, &[a, b, c, d]) => Ok(u32::from_le_bytes([a, b, c, d])),
            _ => Err(FrameError::Protocol("not a credit frame".into())),
        }
    }

    /// Returns the prefix of the frame as bytes; the payload follows it on the wire.
    ///
    /// # Errors
    /// Fails if the length of the payload is outside the limits of its kind.
    pub fn prefix(&self) -> Result<[u8; PREFIX_BYTES], FrameError> {
        let length = u32::try_from(self.payload.len())
            .ok()
            .filter(|_| self.kind.lengths().contains(&self.payload.len()))
            .ok_or_else(|| FrameError::Protocol("payload length outside its limit".into()))?;
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..4].copy_from_slice(&length.to_le_bytes());
        prefix[4] = self.kind as u8;
        prefix[5] = self.channel as u8;
        prefix[8..].copy_from_slice(&self.stream.to_le_bytes());
        Ok(prefix)
    }

    /// Returns the frame as bytes in one buffer, so that it can be written at once.
    ///
    /// # Errors
    /// Fails if the length of the payload is outside the limits of its kind.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FrameError> {
        let mut bytes = Vec::with_capacity(PREFIX_BYTES + self.payload.len());
        bytes.extend_from_slice(&self.prefix()?);
        bytes.extend_from_slice(&self.payload);
        Ok(bytes)
    }

    /// Writes the frame to a stream.
    ///
    /// # Errors
    /// Fails if the stream fails, or if the length of the payload is outside the limits of its
    /// kind.
    pub fn write_to(&self, writer: &mut impl Write) -> Result<(), FrameError> {
        Ok(writer.write_all(&self.to_bytes()?)?)
    }

    /// Reads a frame; returns `None` if the stream ends before one.
    ///
    /// # Errors
    /// Fails if the stream fails, ends within a frame, or violates the protocol.
    pub fn read_from(reader: &mut impl Read) -> Result<Option<Self>, FrameError> {
        let mut prefix = [0; PREFIX_BYTES];
        let mut filled = 0;
        while filled < PREFIX_BYTES {
            match reader.read(&mut prefix[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        let prefix = Prefix::parse(&prefix)?;
        let mut payload = vec![0; prefix.length];
        reader.read_exact(&mut payload)?;
        Ok(Some(Self::from_parts(prefix, payload)))
    }

    fn from_parts(prefix: Prefix, payload: Vec<u8>) -> Self {
        Self { stream: prefix.stream, kind: prefix.kind, channel: prefix.channel, payload }
    }

    /// Reads a frame from an async stream; returns `None` if the stream ends before one.
    ///
    /// # Errors
    /// Fails if the stream fails, ends within a frame, or violates the protocol.
    #[cfg(feature = "tokio")]
    pub async fn read_async<R>(reader: &mut R) -> Result<Option<Self>, FrameError>
    where
        R: tokio::io::AsyncRead + Unpin,
    {
        use tokio::io::AsyncReadExt;
        let mut prefix = [0; PREFIX_BYTES];
        let mut filled = 0;
        while filled < PREFIX_BYTES {
            match reader.read(&mut prefix[filled..]).await? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into())),
                n => filled += n,
            }
        }
        let prefix = Prefix::parse(&prefix)?;
        let mut payload = vec![0; prefix.length];
        reader.read_exact(&mut payload).await?;
        Ok(Some(Self::from_parts(prefix, payload)))
    }

    /// Writes the frame to an async stream, without flushing it.
    ///
    /// # Errors
    /// Fails if the stream fails, or if the length of the payload is outside the limits of its
    /// kind.
    #[cfg(feature = "tokio")]
    pub async fn write_async<W>(&self, writer: &mut W) -> Result<(), FrameError>
    where
        W: tokio::io::AsyncWrite + Unpin,
    {
        use tokio::io::AsyncWriteExt;
        Ok(writer.write_all(&self.to_bytes()?).await?)
    }
}
