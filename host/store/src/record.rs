//! Records of the results of stages, and of the finished files of builds.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use checked::{Digest, DiskName, Hex, Printable};
use serde::{Deserialize, Serialize};

/// The version of the record format; records of other versions are misses.
pub const RECORD_VERSION: u32 = 2;

/// Maximum number of layers of a disk in a record. The engine merges chains of more than 32; longer
/// ones only make a record of another user costly to fetch.
const LAYERS_MAX: usize = 64;

/// The error for bytes that are not the record of a stage.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRecord {
    /// The JSON is invalid, or a value breaks the rules of its type.
    #[error("it cannot be read")]
    Json(#[from] serde_json::Error),
    /// A vbuild with another version of the format wrote the record.
    #[error("it has version {found:?}, this vbuild knows {RECORD_VERSION}")]
    Version {
        /// The version of the record, if it is a number.
        found: Option<u64>,
    },
    /// The record has the key of another stage.
    #[error("it is of another stage")]
    Key,
    /// A disk has too many layers.
    #[error("the disk `{disk}` has {found} layers, more than {LAYERS_MAX}")]
    Layers {
        /// The name of the disk.
        disk: DiskName,
        /// The number of its layers.
        found: usize,
    },
}

impl InvalidRecord {
    /// Returns the error and its cause on one line.
    #[must_use]
    pub fn reason(&self) -> Printable {
        match self {
            Self::Json(error) => format!("{self}: {error}").into(),
            _ => self.to_string().into(),
        }
    }
}

/// The subject of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    /// A stage that has ended.
    Stage,
    /// A checkpoint between two scripts of a stage.
    Point,
    /// The files that a build has written on the host.
    Outputs,
}

/// The record of a stage that has run, or of the finished outputs of a build. The next stage can
/// start from the disks in [`Self::disks`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageRecord {
    /// The version of the format, [`RECORD_VERSION`].
    pub version: u32,
    /// The key of the stage, which is also the name of the record.
    pub key: Digest,
    /// The key of the stage before it.
    pub parent: Option<Digest>,
    /// The name of the build that made the result.
    pub build: Printable,
    /// The subject of the record.
    pub kind: RecordKind,
    /// The name of the stage; for outputs, the name of the last stage.
    pub name: Printable,
    /// When the stage ended, in seconds since 1970.
    pub created: u64,
    /// The run time of the stage in milliseconds.
    pub elapsed_ms: u64,
    /// The disks at the end of the stage, by name; empty if they were not worth saving.
    pub disks: BTreeMap<DiskName, DiskState>,
    /// The other state that is needed to resume, in the format of the engine.
    pub state: serde_json::Value,
    /// The inputs of the key, to explain which of them has changed.
    pub inputs: BTreeMap<Printable, Digest>,
    /// When this stage or one before it first used the network, in seconds since 1970. The age of
    /// the result counts from then.
    pub fetched: Option<u64>,
    /// The connections of this stage, without those of its parents.
    pub connections: Vec<Connection>,
    /// The number of further connections that are not listed.
    #[serde(default)]
    pub more_connections: u64,
    /// The scripts and steps that ran in the stage, in order.
    pub ran: Vec<Ran>,
    /// The object with the log of the stage.
    pub log: Option<Digest>,
    /// The files that the build wrote on the host.
    pub files: Vec<StoredFile>,
    /// The shared cache that this result, or one that it was built on, came from; `None` if
    /// everything was built here.
    pub origin: Option<Origin>,
}

/// The source of a fetched record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The place of the shared cache.
    pub place: Printable,
    /// The key that signed the record; `None` if it was not signed.
    pub key: Option<KeyId>,
    /// When the record was fetched, in seconds since 1970.
    pub fetched: u64,
}

/// The name of a shared cache's secret. It does not reveal the secret.
pub type KeyId = Hex<8>;

/// A script or step that ran in a stage. Its times are by the clock of the machine: what changed on
/// the disks between them was changed by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    /// The kind of the script or step.
    #[serde(default)]
    pub kind: RanKind,
    /// The name, such as `install.d/10-x`, or a description.
    pub name: Printable,
    /// The element or other source that it came from.
    pub origin: Option<Printable>,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: u64,
}

/// The kind of a [`Ran`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RanKind {
    /// A script or command of the recipe.
    Script,
    /// A copy of a tree. Its files may have been changed earlier, in the source of the copy.
    TreeCopy,
    /// Any other step.
    #[default]
    Step,
}

/// A disk as a chain of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskState {
    /// The size of the disk in bytes.
    pub bytes: u64,
    /// The layers, from the lowest to the topmost. The list is complete: no record of a parent is
    /// needed to restore the disk.
    pub layers: Vec<Digest>,
}

/// A connection that a stage opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The name of the host, as the guest gave it.
    pub host: Printable,
    /// The port of the host.
    pub port: u16,
    /// The number of bytes sent to the server.
    pub sent: u64,
    /// The number of bytes received from the server.
    pub received: u64,
    /// The files that were fetched, as far as they could be seen.
    pub fetched: Vec<Fetched>,
    /// The number of further files that are not listed.
    #[serde(default)]
    pub more_fetched: u64,
}

impl Connection {
    /// Returns the memory that the connection takes, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        let fetched = self.fetched.iter();
        let fetched = fetched.map(|fetched| size_of::<Fetched>() + fetched.path.as_str().len());
        size_of::<Self>() + self.host.as_str().len() + fetched.sum::<usize>()
    }
}

/// A file that was fetched by plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// The path of the file on the server.
    pub path: Printable,
    /// The status of the HTTP response.
    pub status: Option<u16>,
    /// The number of bytes of the file that were received.
    pub bytes: u64,
    /// The digest of the file, if all of it was received.
    pub sha256: Option<Digest>,
}

/// A file that a build wrote on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// The output of the plan that the file is.
    pub role: FileRole,
    /// The object with the content.
    pub object: Digest,
    /// Whether the object is a layer, as for sparse files; otherwise it has the file's bytes.
    pub layer: bool,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The checksums of the file that were made for the build.
    pub checksums: Checksums,
}

/// The output of a build that a [`StoredFile`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileRole {
    /// The image or archive at this index of the plan's outputs.
    File(usize),
    /// The directory at this index, as an archive.
    Directory(usize),
    /// The plan, for queries about the build.
    Plan,
}

/// The checksums of a file that were made.
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
    /// Parses the record of a stage.
    ///
    /// # Errors
    /// Fails if the bytes are not a record of this version, if the record is of another stage, or
    /// if a disk has too many layers.
    pub fn from_json(bytes: &[u8], key: &Digest) -> Result<Self, InvalidRecord> {
        /// The part of a record that is the same in all versions.
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

    /// Returns the age of what the result took from the network: zero if it took nothing. `None` if
    /// the time is in the future, since the clock has been set back then and the age is unknown.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let Some(fetched) = self.fetched else { return Some(Duration::ZERO) };
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        now.checked_sub(Duration::from_secs(fetched))
    }

    /// Whether a build can resume from this record.
    #[must_use]
    pub fn resumable(&self) -> bool {
        !self.disks.is_empty()
    }

    /// Returns the record for other users, without what is only useful in this store.
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

    /// Returns every object that the record needs.
    pub fn objects(&self) -> impl Iterator<Item = Digest> + '_ {
        let layers = self.disks.values().flat_map(|disk| disk.layers.iter().copied());
        layers.chain(self.log).chain(self.files.iter().map(|file| file.object))
    }
}
