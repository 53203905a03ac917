//! The door to the host: one vsock connection for each request. A request and
//! its answer are a length (u32, little endian) and so many bytes of JSON; after
//! an accepted `connect` the rest of the connection is the bytes themselves.

use std::io::{self, Read, Write};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use vsock::{VMADDR_CID_HOST, VsockStream};
use wire::EGRESS_PORT;

/// The version of what is said at the door.
const VERSION: u32 = 1;

/// The largest answer taken, in bytes: the host keeps to the same limit.
const ANSWER_MAX_BYTES: u32 = 4096;

/// How long the host may take for an answer. It has its own, shorter limits;
/// this one is for a host that hangs.
const ANSWER_WAIT: Duration = Duration::from_secs(150);

/// What the agent asks.
#[derive(Debug)]
pub(super) enum Ask<'a> {
    /// A connection to a name or address.
    Connect {
        /// Where to.
        host: &'a str,
        /// The port.
        port: u16,
    },
    /// Whether a name exists.
    Resolve {
        /// The name.
        name: &'a str,
    },
}

#[derive(Debug, Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    message: String,
}

/// Why the host said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// The other end refused the connection.
    Refused,
    /// There is no such name.
    Nxdomain,
    /// No route, or no network at all.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The host's rules do not allow it.
    Policy,
    /// The host could not be asked, or said something else.
    #[default]
    #[serde(other)]
    Other,
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    pub(super) message: String,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { kind: Kind::Other, message: format!("the door to the host failed: {error}") }
    }
}

/// Asks the host. On yes, the connection carries what was asked for.
pub(super) fn ask(ask: &Ask<'_>) -> Result<VsockStream, Refusal> {
    let mut stream = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, EGRESS_PORT)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.write_all(&encode(ask)?)?;
    read_answer(&mut stream)?;
    stream.set_read_timeout(None)?;
    Ok(stream)
}

fn encode(ask: &Ask<'_>) -> io::Result<Vec<u8>> {
    let json = match ask {
        Ask::Connect { host, port } => {
            json!({ "v": VERSION, "op": "connect", "host": host, "port": port })
        }
        Ask::Resolve { name } => json!({ "v": VERSION, "op": "resolve", "name": name }),
    };
    let json = json.to_string().into_bytes();
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    Ok([&length.to_le_bytes(), json.as_slice()].concat())
}

fn read_answer(stream: &mut impl Read) -> Result<(), Refusal> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > ANSWER_MAX_BYTES {
        return Err(io::Error::other(format!("an answer of {length} bytes")).into());
    }
    let mut json = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut json)?;
    let answer: Answer = serde_json::from_slice(&json).map_err(io::Error::from)?;
    match answer.ok {
        true => Ok(()),
        false => Err(Refusal { kind: answer.kind, message: answer.message }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(json: &str) -> Result<(), Refusal> {
        let length = u32::try_from(json.len()).unwrap().to_le_bytes();
        read_answer(&mut [&length, json.as_bytes()].concat().as_slice())
    }

    #[test]
    fn requests_are_as_the_host_reads_them() {
        let bytes = encode(&Ask::Connect { host: "a.example", port: 443 }).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes[4..]).unwrap();
        let expected = serde_json::json!({
            "v": 1, "op": "connect", "host": "a.example", "port": 443,
        });
        assert_eq!(json, expected);
        assert_eq!(bytes[..4], u32::try_from(bytes.len() - 4).unwrap().to_le_bytes());
        let bytes = encode(&Ask::Resolve { name: "b" }).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&bytes[4..]).unwrap();
        assert_eq!(json, serde_json::json!({ "v": 1, "op": "resolve", "name": "b" }));
    }

    #[test]
    fn answers_are_yes_or_a_kind_of_no() {
        assert!(answer(r#"{"ok":true}"#).is_ok());
        let refusal = answer(r#"{"ok":false,"kind":"policy","message":"no"}"#).unwrap_err();
        assert_eq!((refusal.kind, refusal.message.as_str()), (Kind::Policy, "no"));
        let refusal = answer(r#"{"ok":false,"kind":"something-new","message":""}"#).unwrap_err();
        assert_eq!(refusal.kind, Kind::Other);
        assert_eq!(answer("{").unwrap_err().kind, Kind::Other);
        let long = [&u32::MAX.to_le_bytes()[..], b"{}"].concat();
        assert!(read_answer(&mut long.as_slice()).unwrap_err().message.contains("4294967295"));
    }
}
