//! What is known about the result of a stage.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use checked::{Digest, DiskName, Hex, Printable};
use serde::{Deserialize, Serialize};

/// The version of records; those of other versions are misses.
pub const RECORD_VERSION: u32 = 2;

/// Layers that a disk of a record may have. The engine merges chains of more than 32;
/// a longer one only makes a foreign record costly to fetch.
const LAYERS_MAX: usize = 64;

/// Why bytes are not the record of a stage.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRecord {
    /// The JSON is wrong, or a value breaks the rules of its type.
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    /// Another vbuild wrote it.
    #[error("it has version {found:?}, this vbuild knows {RECORD_VERSION}")]
    Version {
        /// Its version, where there is a number.
        found: Option<u64>,
    },
    /// The record lies under the name of another stage.
    #[error("it is of another stage")]
    Key,
    /// A disk is a chain of too many layers.
    #[error("the disk `{disk}` has {found} layers, more than {LAYERS_MAX}")]
    Layers {
        /// The disk.
        disk: DiskName,
        /// How many layers it has.
        found: usize,
    },
}

impl InvalidRecord {
    /// The error with its cause on one line.
    #[must_use]
    pub fn reason(&self) -> Printable {
        match self {
            Self::Json(error) => format!("{self}: {error}").into(),
            _ => self.to_string().into(),
        }
    }
}

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// A stage that has run to its end.
    Stage,
    /// A point between two scripts of a stage.
    Point,
    /// The files that a whole build has left on the host.
    Outputs,
}

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
    pub build: Printable,
    /// What it is about.
    pub kind: RecordKind,
    /// The name of the stage; of outputs, the name of the last one.
    pub name: Printable,
    /// Seconds since 1970 when it had run.
    pub created: u64,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// The disks as they were at its end, by name; none when they were not worth
    /// keeping.
    pub disks: BTreeMap<DiskName, DiskState>,
    /// What else must be known to go on from here, in the words of the engine.
    pub state: serde_json::Value,
    /// What went into its key, for telling which input changed.
    pub inputs: BTreeMap<Printable, Digest>,
    /// Seconds since 1970 when the network was first used, by this stage or one
    /// before it: from then on, the result ages.
    pub fetched: Option<u64>,
    /// Connections that it made; those of its parents are not among them.
    pub connections: Vec<Connection>,
    /// Connections beyond those, of which only the number was kept.
    #[serde(default)]
    pub more_connections: u64,
    /// What ran in it, in order.
    pub ran: Vec<Ran>,
    /// Its log, as an object.
    pub log: Option<Digest>,
    /// The files that it left on the host.
    pub files: Vec<StoredFile>,
    /// The shared cache that it came from, or that a result came from on which it was
    /// built; `None` when all of it was built here.
    pub origin: Option<Origin>,
}

/// Where a record came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The shared cache.
    pub place: Printable,
    /// The key that it was signed with; `None` for one that was not signed.
    pub key: Option<KeyId>,
    /// Seconds since 1970 when it was fetched.
    pub fetched: u64,
}

/// The name of the secret of a shared cache, from which the secret cannot be found.
pub type KeyId = Hex<8>;

/// Something that ran in a stage, by the clock of its machine: what changed on
/// its disks meanwhile was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// What kind of thing ran.
    #[serde(default)]
    pub kind: RanKind,
    /// Its name: `install.d/10-x`, or a sentence.
    pub name: Printable,
    /// The element or other source that it came from.
    pub origin: Option<Printable>,
    /// Milliseconds since 1970 when it began.
    pub started_ms: u64,
    /// Milliseconds since 1970 when it had ended.
    pub ended_ms: u64,
}

/// The kind of a [`Ran`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RanKind {
    /// A script or command of the recipe.
    Script,
    /// A copy of a tree, which takes changes of its source along.
    TreeCopy,
    /// Any other step.
    #[default]
    Step,
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
    pub host: Printable,
    /// The port.
    pub port: u16,
    /// Bytes to the server.
    pub sent: u64,
    /// Bytes from the server.
    pub received: u64,
    /// What was fetched, where it could be seen.
    pub fetched: Vec<Fetched>,
    /// Files beyond those, of which only the number was kept.
    #[serde(default)]
    pub more_fetched: u64,
}

impl Connection {
    /// What it takes in memory, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        let fetched = self.fetched.iter();
        let fetched = fetched.map(|fetched| size_of::<Fetched>() + fetched.path.as_str().len());
        size_of::<Self>() + self.host.as_str().len() + fetched.sum::<usize>()
    }
}

/// A file that came by plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// The path of the file on the server.
    pub path: Printable,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Bytes of it.
    pub bytes: u64,
    /// Its digest, when all of it came.
    pub sha256: Option<Digest>,
}

/// A file on the host that a build made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// Which of the plan's outputs it is.
    pub role: FileRole,
    /// The object.
    pub object: Digest,
    /// Whether the object is a layer, as for files with holes, or the bytes.
    pub layer: bool,
    /// The file's size.
    pub bytes: u64,
    /// Checksums that were made of it.
    pub checksums: Checksums,
}

/// Which file of a build a [`StoredFile`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileRole {
    /// The output of this position: an image or an archive.
    File(usize),
    /// The directory of this position, as an archive.
    Directory(usize),
    /// The plan, for questions about the build.
    Plan,
}

/// Checksums of a file, as far as they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checksums {
    /// The MD5 digest.
    pub md5: Option<Hex<16>>,
    /// The SHA-256 digest.
    pub sha256: Option<Hex<32>>,
    /// The SHA-512 digest.
    pub sha512: Option<Hex<64>>,
}

impl StageRecord {
    /// Reads the record of a stage.
    ///
    /// # Errors
    /// When the bytes are no record of this version, or one of another stage.
    pub fn from_json(bytes: &[u8], key: &Digest) -> Result<Self, InvalidRecord> {
        /// The part that records of all versions have.
        #[derive(Deserialize)]
        struct Head {
            version: Option<u64>,
        }
        let found = serde_json::from_slice::<Head>(bytes)?.version;
        if found != Some(u64::from(RECORD_VERSION)) {
            return Err(InvalidRecord::Version { found });
        }
        let record: Self = serde_json::from_slice(bytes)?;
        if record.key != *key {
            return Err(InvalidRecord::Key);
        }
        match record.disks.iter().find(|(_, disk)| disk.layers.len() > LAYERS_MAX) {
            None => Ok(record),
            Some((disk, state)) => {
                let (disk, found) = (disk.clone(), state.layers.len());
                Err(InvalidRecord::Layers { disk, found })
            }
        }
    }

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

    /// The record as others get it: without what is of use here alone.
    #[must_use]
    pub fn for_others(&self) -> Self {
        Self {
            parent: None,
            inputs: BTreeMap::new(),
            connections: Vec::new(),
            more_connections: 0,
            log: None,
            origin: None,
            ..self.clone()
        }
    }

    /// Every object that the record needs.
    pub fn objects(&self) -> impl Iterator<Item = Digest> + '_ {
        let layers = self.disks.values().flat_map(|disk| disk.layers.iter().copied());
        layers.chain(self.log).chain(self.files.iter().map(|file| file.object))
    }
}
