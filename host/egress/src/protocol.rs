//! What the guest's agent says on a new stream to the egress port, and what
//! comes back.
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
//! The agent mirrors these types and shares no code with this crate, so fields
//! may be added to replies but nothing here changes its meaning without a new
//! version.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// Largest frame: a request holds one name of at most 253 bytes, a reply one
/// message that is cut to fit.
pub const MAX_FRAME_BYTES: u32 = 4096;

/// Bytes of a reply's message, so that its frame stays below the limit even
/// when every byte is escaped.
const MAX_MESSAGE_BYTES: usize = 600;

/// What a guest asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A TCP connection.
    Connect {
        /// [`VERSION`].
        v: u32,
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// Whether a name exists.
    Resolve {
        /// [`VERSION`].
        v: u32,
        /// The name.
        name: String,
    },
}

/// Why a request was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The other side refuses connections.
    Refused,
    /// There is no such name.
    Nxdomain,
    /// No way leads there.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The user did not allow it, or the request itself is wrong.
    Policy,
}

/// What is refused, and in which words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind, for programs.
    pub kind: RefusalKind,
    /// The words, for the log and the guest.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn policy(message: impl Into<String>) -> Self {
        Self::new(RefusalKind::Policy, message)
    }
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was granted.
    pub ok: bool,
    /// For a name that exists: how many addresses it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addrs: Option<u32>,
    /// Why it was not granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RefusalKind>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Reply {
    /// A granted request; with the number of addresses for a name.
    #[must_use]
    pub fn ok(addrs: Option<u32>) -> Self {
        Self { ok: true, addrs, kind: None, message: None }
    }

    /// A request that is not granted.
    #[must_use]
    pub fn refused(refusal: &Refusal) -> Self {
        let mut end = refusal.message.len().min(MAX_MESSAGE_BYTES);
        while !refusal.message.is_char_boundary(end) {
            end -= 1;
        }
        let message = Some(refusal.message[..end].to_owned());
        Self { ok: false, addrs: None, kind: Some(refusal.kind), message }
    }
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The stream failed or ended.
    #[error("the guest's stream ended within a frame")]
    Io(#[from] std::io::Error),
    /// The frame is larger than any can be.
    #[error("a frame of {0} bytes, the limit is {MAX_FRAME_BYTES}")]
    TooLarge(u32),
    /// The frame is no request.
    #[error("a malformed request: {0}")]
    Malformed(String),
    /// The other side speaks another version.
    #[error("the guest speaks version {guest} of the egress protocol, this is version {VERSION}")]
    Version {
        /// The guest's version.
        guest: u32,
    },
}

/// Reads a request.
///
/// # Errors
/// When the stream ends, or the frame is too large, malformed, or of another
/// version.
pub async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Result<Request, ProtocolError> {
    let frame = read_frame(stream).await?;
    let malformed = |e: serde_json::Error| ProtocolError::Malformed(e.to_string());
    // The version first, so that a newer guest gets the right message.
    let value: serde_json::Value = serde_json::from_slice(&frame).map_err(malformed)?;
    if let Some(version) = value.get("v").and_then(serde_json::Value::as_u64) {
        let guest = u32::try_from(version).unwrap_or(u32::MAX);
        if guest != VERSION {
            return Err(ProtocolError::Version { guest });
        }
    }
    serde_json::from_value(value).map_err(malformed)
}

/// Reads a reply; the client's side, for tests and tools.
///
/// # Errors
/// When the stream ends, or the frame is too large or malformed.
pub async fn read_reply(stream: &mut (impl AsyncRead + Unpin)) -> Result<Reply, ProtocolError> {
    let frame = read_frame(stream).await?;
    serde_json::from_slice(&frame).map_err(|e| ProtocolError::Malformed(e.to_string()))
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, ProtocolError> {
    let length = stream.read_u32_le().await?;
    if length > MAX_FRAME_BYTES {
        return Err(ProtocolError::TooLarge(length));
    }
    let mut frame = vec![0; usize::try_from(length).unwrap_or_default()];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

/// Writes a request or a reply as one frame.
///
/// # Errors
/// When the stream fails.
pub async fn write_frame<T: Serialize + Sync>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> std::io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).map_err(std::io::Error::other)?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_what_the_agent_mirrors() {
        let connect = r#"{"v":1,"op":"connect","host":"a.example","port":443}"#;
        let request = Request::Connect { v: 1, host: "a.example".into(), port: 443 };
        assert_eq!(serde_json::from_str::<Request>(connect).unwrap(), request);
        let resolve = r#"{"v":1,"name":"a.example","op":"resolve"}"#;
        let request = Request::Resolve { v: 1, name: "a.example".into() };
        assert_eq!(serde_json::from_str::<Request>(resolve).unwrap(), request);
        let text = |reply: &Reply| serde_json::to_string(reply).unwrap();
        assert_eq!(text(&Reply::ok(None)), r#"{"ok":true}"#);
        assert_eq!(text(&Reply::ok(Some(2))), r#"{"ok":true,"addrs":2}"#);
        let refusal = Refusal::new(RefusalKind::Nxdomain, "no");
        assert_eq!(
            text(&Reply::refused(&refusal)),
            r#"{"ok":false,"kind":"nxdomain","message":"no"}"#
        );
    }

    #[test]
    fn messages_are_cut_to_fit_a_frame() {
        let reply = Reply::refused(&Refusal::policy("\u{1}ü".repeat(5000)));
        let json = serde_json::to_vec(&reply).unwrap();
        assert!(json.len() < MAX_FRAME_BYTES as usize, "{} bytes", json.len());
    }

    async fn read(bytes: &[u8]) -> String {
        read_request(&mut &bytes[..]).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn wrong_frames_have_their_own_errors() {
        let frame = |json: &str| {
            let mut bytes = u32::try_from(json.len()).unwrap().to_le_bytes().to_vec();
            bytes.extend(json.as_bytes());
            bytes
        };
        assert!(read(&frame(r#"{"v":2,"op":"new"}"#)).await.contains("speaks version 2"));
        assert!(read(&frame(r#"{"v":1,"op":"new"}"#)).await.contains("malformed request"));
        assert!(read(&frame(r#"{"v":1,"op":"resolve","name":1}"#)).await.contains("malformed"));
        let extra = r#"{"v":1,"op":"resolve","name":"a","x":1}"#;
        assert!(read(&frame(extra)).await.contains("unknown field"));
        assert!(read(&frame("[")).await.contains("malformed"));
        assert!(read(&[255, 255, 255, 255]).await.contains("a frame of 4294967295 bytes"));
        assert!(read(&[9, 0, 0, 0, b'{']).await.contains("ended within a frame"));
    }
}
