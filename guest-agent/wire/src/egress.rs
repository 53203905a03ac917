//! The protocol of the guest's network: the request that the agent sends on a new vsock stream to
//! [`crate::EGRESS_PORT`], and the reply of the host.
//!
//! ```text
//!   guest ─► host   u32 LE length, JSON request
//!   guest ◄─ host   u32 LE length, JSON reply
//!   then, after a granted connect, raw bytes both ways; each direction ends on
//!   its own
//! ```
//!
//! ```json
//! {"v":1,"op":"connect","host":"mirror.example","port":443}
//! {"v":1,"op":"resolve","name":"mirror.example"}
//! {"ok":true}
//! {"ok":true,"addrs":2}
//! {"ok":false,"kind":"policy","message":"…"}
//! ```
//!
//! Neither side trusts the other: the host reads requests of a guest in which a build script is
//! root, and the agent reads with the same code.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// The maximum size of a frame in bytes, without its length. A request contains one name of at most
/// 253 bytes, a reply one message that is truncated to fit.
pub const FRAME_MAX_BYTES: usize = 4096;

/// The maximum size of a reply's message in bytes, so that the frame does not exceed its limit even
/// if every byte is escaped with six.
const MESSAGE_MAX_BYTES: usize = 600;

/// The size of the length before each frame, in bytes.
const LENGTH_BYTES: usize = 4;

/// A request of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Opens a TCP connection.
    Connect {
        /// The version of the protocol: [`VERSION`].
        v: u32,
        /// The name or the address of the host.
        host: String,
        /// The port of the host.
        port: u16,
    },
    /// Asks whether a name exists.
    Resolve {
        /// The version of the protocol: [`VERSION`].
        v: u32,
        /// The name to resolve.
        name: String,
    },
}

/// The reason why a request was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The destination refused the connection.
    Refused,
    /// The name does not exist.
    Nxdomain,
    /// The address cannot be reached.
    Unreachable,
    /// No answer arrived in time.
    Timeout,
    /// The user's rules do not allow the request, or it is invalid.
    Policy,
}

/// A refused request: the kind and the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, for programs.
    pub kind: RefusalKind,
    /// The text, for the log and the guest.
    pub message: String,
}

impl Refusal {
    /// Creates a refusal of a kind.
    #[must_use]
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Creates a refusal because of the user's rules.
    #[must_use]
    pub fn policy(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Policy, message)
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// Whether the request was granted.
    pub ok: bool,
    /// The number of addresses of a name that exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addrs: Option<u32>,
    /// The kind of the refusal, if the request was not granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RefusalKind>,
    /// The text of the refusal, if the request was not granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Reply {
    /// Creates the reply to a granted request, with the number of addresses if it was for a name.
    #[must_use]
    pub fn ok(addrs: Option<u32>) -> Self {
        Self { ok: true, addrs, kind: None, message: None }
    }

    /// Creates the reply to a refused request. The message is truncated to fit into a frame.
    #[must_use]
    pub fn refused(refusal: &Refusal) -> Self {
        let mut end = refusal.message.len().min(MESSAGE_MAX_BYTES);
        while !refusal.message.is_char_boundary(end) {
            end -= 1;
        }
        let message = Some(refusal.message[..end].to_owned());
        Self { ok: false, addrs: None, kind: Some(refusal.kind), message }
    }

    /// Converts the reply to a result. A refusal without a kind counts as [`RefusalKind::Policy`].
    ///
    /// # Errors
    /// Returns the refusal if the request was not granted.
    pub fn granted(self) -> Result<(), Refusal> {
        if self.ok {
            return Ok(());
        }
        let kind = self.kind.unwrap_or(RefusalKind::Policy);
        Err(Refusal::new(kind, self.message.unwrap_or_default()))
    }
}

/// An error while reading or writing a frame.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The stream failed, or ended within a frame.
    #[error("the stream failed or ended within a frame")]
    Io(#[from] io::Error),
    /// The frame is larger than [`FRAME_MAX_BYTES`].
    #[error("a frame of {bytes} bytes, the limit is {FRAME_MAX_BYTES}")]
    TooLarge {
        /// The length of the frame in bytes, without the length field.
        bytes: usize,
    },
    /// The frame does not contain a valid message.
    #[error("a malformed message: {0}")]
    Malformed(String),
    /// The other side uses another version of the protocol.
    #[error("the guest speaks version {guest} of the egress protocol, this is version {VERSION}")]
    Version {
        /// The guest's version.
        guest: u64,
    },
}

/// A message of this protocol: [`Request`] or [`Reply`].
pub trait Message: Serialize + DeserializeOwned + Sized {
    /// Parses a message from the bytes of a frame, without its length.
    ///
    /// # Errors
    /// Fails if the bytes are not a message, or are one of another version.
    fn from_body(body: &[u8]) -> Result<Self, EgressError> {
        serde_json::from_slice(body).map_err(malformed)
    }

    /// Returns the message as a frame, with its length.
    ///
    /// # Errors
    /// Fails if the message is larger than [`FRAME_MAX_BYTES`].
    fn to_frame(&self) -> Result<Vec<u8>, EgressError> {
        let mut frame = vec![0; LENGTH_BYTES];
        serde_json::to_writer(&mut frame, self).map_err(malformed)?;
        let bytes = frame.len() - LENGTH_BYTES;
        let length = u32::try_from(bytes).ok().filter(|_| bytes <= FRAME_MAX_BYTES);
        let length = length.ok_or(EgressError::TooLarge { bytes })?;
        frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(frame)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// Fails if the stream ends or fails, or if the frame is too large or not a message.
    fn read_from(reader: &mut impl Read) -> Result<Self, EgressError> {
        let mut length = [0; LENGTH_BYTES];
        reader.read_exact(&mut length)?;
        let mut body = vec![0; body_bytes(length)?];
        reader.read_exact(&mut body)?;
        Self::from_body(&body)
    }

    /// Writes the message and flushes the stream.
    ///
    /// # Errors
    /// Fails if the stream fails, or if the message is too large.
    fn write_to(&self, writer: &mut impl Write) -> Result<(), EgressError> {
        writer.write_all(&self.to_frame()?)?;
        Ok(writer.flush()?)
    }

    /// Reads a message from an async stream.
    ///
    /// # Errors
    /// Fails if the stream ends or fails, or if the frame is too large or not a message.
    #[cfg(feature = "tokio")]
    fn read_async(
        reader: &mut (impl tokio::io::AsyncRead + Unpin + Send),
    ) -> impl Future<Output = Result<Self, EgressError>> + Send {
        use tokio::io::AsyncReadExt;
        async move {
            let mut length = [0; LENGTH_BYTES];
            reader.read_exact(&mut length).await?;
            let mut body = vec![0; body_bytes(length)?];
            reader.read_exact(&mut body).await?;
            Self::from_body(&body)
        }
    }

    /// Writes the message to an async stream, and flushes it.
    ///
    /// # Errors
    /// Fails if the stream fails, or if the message is too large.
    #[cfg(feature = "tokio")]
    fn write_async(
        &self,
        writer: &mut (impl tokio::io::AsyncWrite + Unpin + Send),
    ) -> impl Future<Output = Result<(), EgressError>> + Send {
        use tokio::io::AsyncWriteExt;
        let frame = self.to_frame();
        async move {
            writer.write_all(&frame?).await?;
            Ok(writer.flush().await?)
        }
    }
}

impl Message for Request {
    fn from_body(body: &[u8]) -> Result<Self, EgressError> {
        // The version is checked first, so that a request of another version gets the right error.
        let value: serde_json::Value = serde_json::from_slice(body).map_err(malformed)?;
        match value.get("v").and_then(serde_json::Value::as_u64) {
            Some(guest) if guest != u64::from(VERSION) => Err(EgressError::Version { guest }),
            _ => serde_json::from_value(value).map_err(malformed),
        }
    }
}

impl Message for Reply {}

fn body_bytes(length: [u8; LENGTH_BYTES]) -> Result<usize, EgressError> {
    let bytes = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if bytes > FRAME_MAX_BYTES { Err(EgressError::TooLarge { bytes }) } else { Ok(bytes) }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn malformed(error: serde_json::Error) -> EgressError {
    EgressError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_what_this_page_says() {
        let connect = r#"{"v":1,"op":"connect","host":"a.example","port":443}"#;
        let request = Request::Connect { v: 1, host: "a.example".into(), port: 443 };
        assert_eq!(Request::from_body(connect.as_bytes()).unwrap(), request);
        let resolve = r#"{"v":1,"name":"a.example","op":"resolve"}"#;
        let request = Request::Resolve { v: 1, name: "a.example".into() };
        assert_eq!(Request::from_body(resolve.as_bytes()).unwrap(), request);
        let text = |reply: &Reply| String::from_utf8(reply.to_frame().unwrap()[4..].to_vec());
        assert_eq!(text(&Reply::ok(None)).unwrap(), r#"{"ok":true}"#);
        assert_eq!(text(&Reply::ok(Some(2))).unwrap(), r#"{"ok":true,"addrs":2}"#);
        let refusal = Refusal::new(RefusalKind::Nxdomain, "no");
        assert_eq!(
            text(&Reply::refused(&refusal)).unwrap(),
            r#"{"ok":false,"kind":"nxdomain","message":"no"}"#
        );
    }

    #[test]
    fn messages_are_cut_to_fit_a_frame() {
        let reply = Reply::refused(&Refusal::policy("\u{1}ü".repeat(5000)));
        assert!(reply.to_frame().is_ok());
        let long = Request::Resolve { v: 1, name: "a".repeat(5000) };
        assert!(matches!(long.to_frame(), Err(EgressError::TooLarge { bytes: 5032 })));
    }

    #[test]
    fn wrong_frames_have_their_own_errors() {
        let request = |bytes: &[u8]| Request::read_from(&mut &bytes[..]).unwrap_err().to_string();
        let frame = |json: &str| {
            let mut bytes = u32::try_from(json.len()).unwrap().to_le_bytes().to_vec();
            bytes.extend(json.as_bytes());
            bytes
        };
        assert!(request(&frame(r#"{"v":2,"op":"new"}"#)).contains("speaks version 2"));
        assert!(request(&frame(r#"{"v":1,"op":"new"}"#)).contains("malformed"));
        assert!(request(&frame(r#"{"v":1,"op":"resolve","name":1}"#)).contains("malformed"));
        let extra = r#"{"v":1,"op":"resolve","name":"a","x":1}"#;
        assert!(request(&frame(extra)).contains("unknown field"));
        assert!(request(&frame("[")).contains("malformed"));
        assert!(request(&[255, 255, 255, 255]).contains("a frame of 4294967295 bytes"));
        assert!(request(&[9, 0, 0, 0, b'{']).contains("ended within a frame"));
        let reply = Reply::read_from(&mut &frame(r#"{"ok":false,"kind":"policy"}"#)[..]).unwrap();
        assert_eq!(reply.granted().unwrap_err(), Refusal::policy(""));
        assert!(Reply::read_from(&mut &frame(r#"{"ok":1}"#)[..]).is_err());
    }
}
