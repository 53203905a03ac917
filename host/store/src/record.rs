//! What is known about the result of a stage.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The version of records; those of other versions are misses.
pub const RECORD_VERSION: u32 = 1;

/// The result of a stage: from this, the next stage can start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// The stage's key, which is also the record's name.
    pub key: Digest,
    /// The key of the stage before it.
    pub parent: Option<Digest>,
    /// The stage's name, for people.
    pub name: String,
    /// Seconds since 1970 when it had run.
    pub created: u64,
    /// How long it took, in milliseconds: what a hit saves.
    pub elapsed_ms: u64,
    /// The disks as they were at its end, by name.
    pub disks: BTreeMap<String, DiskState>,
    /// Facts that scripts have set by then.
    pub facts: BTreeMap<String, String>,
    /// What went into its key, for telling which input changed.
    pub inputs: BTreeMap<String, Digest>,
    /// Connections that it made; those of its parents are not among them.
    pub connections: Vec<Connection>,
    /// Its log, as an object.
    pub log: Option<Digest>,
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
}

impl StageRecord {
    /// How old the result is; `None` when it seems to be from the future, that
    /// is, when a clock was set back, and nothing can be said.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        now.checked_sub(Duration::from_secs(self.created))
    }

    /// Every object that the record needs.
    pub fn objects(&self) -> impl Iterator<Item = Digest> + '_ {
        self.disks.values().flat_map(|disk| disk.layers.iter().copied()).chain(self.log)
    }
}
