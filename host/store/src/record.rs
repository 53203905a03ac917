//! What is known about the result of a stage.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The version of records; those of other versions are misses.
pub const RECORD_VERSION: u32 = 1;

/// What is known about a stage that has run, or about the finished outputs of a
/// build. With [`Self::disks`], the next stage can start from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The stage's key, which is also the record's name.
    pub key: Digest,
    /// The key of the stage before it.
    pub parent: Option<Digest>,
    /// The name of the build that it was made for.
    pub build: String,
    /// The stage's name, for people.
    pub name: String,
    /// Seconds since 1970 when it had run.
    pub created: u64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// The disks as they were at its end, by name; none when they were not worth
    /// keeping.
    pub disks: BTreeMap<String, DiskState>,
    /// What else must be known to go on from here, in the words of the engine.
    pub state: serde_json::Value,
    /// What went into its key, for telling which input changed.
    pub inputs: BTreeMap<String, Digest>,
    /// Seconds since 1970 when the network was first used, by this stage or one
    /// before it: from then on, the result ages.
    pub fetched: Option<u64>,
    /// Connections that it made; those of its parents are not among them.
    pub connections: Vec<Connection>,
    /// What ran in it, in order.
    pub ran: Vec<Ran>,
    /// Its log, as an object.
    pub log: Option<Digest>,
    /// The files that it left on the host.
    pub files: Vec<StoredFile>,
}

/// Something that ran in a stage, by the clock of its machine: what changed on
/// its disks meanwhile was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// What: `install.d/10-x`, or a sentence.
    pub name: String,
    /// The element or other source that it came from.
    pub origin: Option<String>,
    /// Milliseconds since 1970 when it began.
    pub started_ms: u64,
    /// Milliseconds since 1970 when it had ended.
    pub ended_ms: u64,
}

/// A disk as a chain of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskState {
    /// Size of the disk.
    pub bytes: u64,
    /// Layers from the lowest to the topmost; each is complete in itself, and
    /// all of them are here, whatever happens to the records of parents.
    pub layers: Vec<Digest>,
}

/// A connection that a stage made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The host as the guest named it.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Bytes to the server.
    pub sent: u64,
    /// Bytes from the server.
    pub received: u64,
    /// What was fetched, where it could be seen.
    pub fetched: Vec<Fetched>,
}

/// A file that came by plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// Its path on the server.
    pub path: String,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Bytes of it.
    pub bytes: u64,
    /// SHA-256 in hexadecimal, when all of it came.
    pub sha256: Option<String>,
}

/// A file on the host that a build made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// Which of the plan's outputs it is.
    pub role: String,
    /// The object.
    pub object: Digest,
    /// Whether the object is a layer, as for files with holes, or the bytes.
    pub layer: bool,
    /// The file's size.
    pub bytes: u64,
    /// Checksums that were made of it, in hexadecimal, by kind.
    pub checksums: BTreeMap<String, String>,
}

impl StageRecord {
    /// How old what it took from the network is: zero when it took nothing,
    /// `None` when it seems to be from the future, that is, when a clock was set
    /// back, and nothing can be said.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let Some(fetched) = self.fetched else { return Some(Duration::ZERO) };
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        now.checked_sub(Duration::from_secs(fetched))
    }

    /// Whether a build can go on from it.
    #[must_use]
    pub fn resumable(&self) -> bool {
        !self.disks.is_empty()
    }

    /// Every object that the record needs.
    pub fn objects(&self) -> impl Iterator<Item = Digest> + '_ {
        let layers = self.disks.values().flat_map(|disk| disk.layers.iter().copied());
        layers.chain(self.log).chain(self.files.iter().map(|file| file.object))
    }
}
