//! What the guest's agent and the egress service say to each other, once per
//! stream, before bytes flow.
//!
//! A frame is a `u32` in little endian, its length, and so much JSON:
//!
//! ```text
//! guest: {"v":1,"op":"connect","host":"deb.example.org","port":80}
//! host:  {"ok":true}                       then raw bytes, both ways, half-close kept
//!        {"ok":false,"kind":"policy","message":"…"}
//! guest: {"v":1,"op":"resolve","name":"deb.example.org"}
//! host:  {"ok":true,"addrs":2}
//! ```

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// The longest frame. A name has at most 253 bytes (RFC 1035 section 2.3.4);
/// the rest is room for messages.
pub const FRAME_MAX_BYTES: usize = 4096;

/// What the guest asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub v: u32,
    /// What it is about.
    pub op: Operation,
    /// The host for `connect`: a name or an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port for `connect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The name for `resolve`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A connection to `host`:`port`.
    Connect,
    /// Whether `name` exists.
    Resolve,
}

/// What the host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// For `resolve`: how many addresses the name has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addrs: Option<usize>,
    /// Why not, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<RefusalKind>,
    /// Why not, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefusalKind {
    /// The server refused the connection.
    Refused,
    /// There is no such name.
    Nxdomain,
    /// The server cannot be reached.
    Unreachable,
    /// The server did not answer in time.
    Timeout,
    /// vbuild does not allow it.
    Policy,
}

impl Reply {
    /// It was done.
    #[must_use]
    pub fn ok(addrs: Option<usize>) -> Self {
        Self { ok: true, addrs, kind: None, message: None }
    }

    /// It was not done.
    #[must_use]
    pub fn refused(refusal: &Refusal) -> Self {
        let message: String = refusal.message.chars().take(512).collect();
        Self { ok: false, addrs: None, kind: Some(refusal.kind), message: Some(message) }
    }
}

/// A refusal with its reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind.
    pub kind: RefusalKind,
    /// The reason, a fragment.
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

/// Reads a frame.
///
/// # Errors
/// When the stream ends or the frame is too long or no JSON of this kind.
pub async fn read<T, R>(stream: &mut R) -> std::io::Result<T>
where
    T: serde::de::DeserializeOwned,
    R: AsyncRead + Unpin,
{
    let length = stream.read_u32_le().await? as usize;
    if length > FRAME_MAX_BYTES {
        return Err(std::io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Writes a frame.
///
/// # Errors
/// When the stream fails.
pub async fn write<T, W>(stream: &mut W, value: &T) -> std::io::Result<()>
where
    T: Serialize,
    W: AsyncWrite + Unpin,
{
    let json = serde_json::to_vec(value)?;
    let length = u32::try_from(json.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[length.to_le_bytes().as_slice(), &json].concat()).await
}
