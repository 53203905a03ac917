//! The shared cache: results of stages that one user has built and another need
//! not. This page says what is in it, version 1.
//!
//! ```text
//!   PREFIX/v1/objects/ab/cdef…      a layer, named by the SHA-256 of its bytes
//!   PREFIX/v1/stages/ab/cdef….json  what is known about a stage, named by its key
//!   PREFIX/v1/signed/ab/cdef….json  the same, behind a line with its signature
//! ```
//!
//! Both are the files of the store ([`store`]) of the same names, without logs, inputs
//! and records of connections. Keys there are made with a salt of the shared cache
//! ([`Remote::salt`]), which follows from the secret: whoever has the secret has the same
//! keys, and nobody else can find a weak value of a variable by trying. Without a secret
//! the salt is known to all. A record is written after the objects that it names,
//! and nothing is ever written twice, so readers and writers need no lock.
//!
//! Every object that is fetched is checked by its digest, which the record
//! names; a record is checked for its key and version. So a damaged cache costs
//! time and makes no wrong image. But a record says itself which objects belong to
//! its key: without more, whoever may write to the place decides what its readers
//! build. With a secret ([`Options::secret`]) only signed records are written and
//! read; without one, the user must say that unsigned ones count. The signature ([`signature`]) covers the whole record, and by the digests
//! in it all objects, so it binds the content to the key; what is not signed with
//! the secret is passed over, wherever it came from.
//!
//! Architecture invariant: knows the store, and neither plans nor machines.

mod backend;
mod error;
mod objects;
mod open;
mod place;
mod shelf;
mod signature;
mod ssh;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Seek, SeekFrom},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use backend::{Backend, Got};
pub use error::{Failure, RemoteError};
pub use place::{Options, Place};
pub use shelf::{Listed, Shelf};
pub use signature::{SECRET_MIN_BYTES, Secret};
use store::{Digest, Lease, Origin, Printable, RecordKind, StageRecord};

/// The version of the layout above.
const LAYOUT: &str = "v1";
/// The largest record that is read or written, in bytes. It lists inputs (a hundred
/// bytes each), layers and facts, without the log and the connections that the store
/// keeps beside them; as JSON of the worst kind it takes sixteen times as much memory.
const RECORD_MAX_BYTES: u64 = 8 << 20;
/// The largest log of a stage, in bytes: twice what the engine keeps of one.
const LOG_MAX_BYTES: u64 = 16 << 20;

/// A shared cache.
#[derive(Debug)]
pub struct Remote {
    place: Place,
    backend: Arc<dyn Backend>,
    secret: Option<Secret>,
}

/// What a stage is called in the user's own store, whose keys are made with another
/// secret than those of the shared cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// The key of the stage in the user's own store.
    pub key: Digest,
    /// The key of the stage before it.
    pub parent: Option<Digest>,
    /// The digests of the stage's inputs, by name.
    pub inputs: BTreeMap<Printable, Digest>,
}

/// What has been moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Records of stages.
    pub stages: usize,
    /// Objects that the other side did not have.
    pub objects: usize,
    /// The total size of the moved objects, in bytes.
    pub bytes: u64,
}

impl Remote {
    /// Prepares for a place; nothing is asked of it yet.
    ///
    /// # Errors
    /// A place that cannot be used.
    pub fn open(place: Place, options: &Options) -> Result<Self, RemoteError> {
        let backend = open::open(&place, options)?;
        Ok(Self { place, backend, secret: options.secret.clone() })
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The secret with which keys of stages there are made; `None` when results there are
    /// not signed, so that all users have the same keys.
    #[must_use]
    pub fn salt(&self) -> Option<[u8; 32]> {
        self.secret.as_ref().map(Secret::salt)
    }

    /// Gets the result of a stage, which is called `there` in the shared cache, into the
    /// store, with all that it needs. `None` when there is no usable result. The record
    /// contains where it came from, and its age counts at the latest from now.
    ///
    /// # Errors
    /// When the cache cannot be reached, or holds something damaged.
    pub async fn fetch(
        &self,
        there: &Digest,
        here: Here,
        lease: &Arc<Lease>,
    ) -> Result<Option<Moved>, RemoteError> {
        let path = self.stage_path(there);
        let Some(content) = self.get_small(&path).await? else { return Ok(None) };
        let content = match &self.secret {
            None => content.as_slice(),
            Some(secret) => secret.open(&content).ok_or_else(|| RemoteError::Damaged {
                place: self.place.to_string(),
                what: path.clone(),
                reason: "it is not signed with the secret of --remote-key".into(),
            })?,
        };
        let Some(record) = parse(content, there) else { return Ok(None) };
        let mut moved = Moved { stages: 1, ..Moved::default() };
        for (digest, max_bytes) in objects(&record) {
            // What is there, and whole, need not come again.
            if self.has_locally(&digest, lease).await? {
                continue;
            }
            moved.bytes += self.fetch_object(&digest, max_bytes, lease).await?;
            moved.objects += 1;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let record = StageRecord {
            key: here.key,
            parent: here.parent,
            inputs: here.inputs,
            fetched: Some(record.fetched.map_or(now, |fetched| fetched.min(now))),
            origin: Some(Origin {
                place: self.place.to_string().into(),
                key: self.secret.as_ref().map(Secret::id),
                fetched: now,
            }),
            ..record
        };
        let lease = Arc::clone(lease);
        blocking(move || lease.put_record(&record)).await?;
        Ok(Some(moved))
    }

    async fn has_locally(&self, digest: &Digest, lease: &Arc<Lease>) -> Result<bool, RemoteError> {
        let (lease, digest) = (Arc::clone(lease), *digest);
        blocking(move || match lease.get_blob(&digest, &mut std::io::sink()) {
            Ok(_) => Ok(true),
            Err(store::StoreError::Missing(_) | store::StoreError::Damaged { .. }) => Ok(false),
            Err(error) => Err(error),
        })
        .await
    }

    async fn fetch_object(
        &self,
        digest: &Digest,
        max_bytes: u64,
        lease: &Arc<Lease>,
    ) -> Result<u64, RemoteError> {
        let path = object_path(digest);
        let mut file = temporary()?;
        let failed = |source| RemoteError::transfer("get", &self.place, &path, source);
        let damaged = |reason: String| RemoteError::Damaged {
            place: self.place.to_string(),
            what: path.clone(),
            reason,
        };
        let bytes = match self.backend.get(&path, &mut file, max_bytes).await.map_err(failed)? {
            Got::Whole(bytes) => bytes,
            Got::Missing => {
                return Err(damaged("it is named by a stage, and is not there".into()));
            }
            Got::Larger => {
                let reason = format!("it has more than the {max_bytes} bytes that its disk allows");
                return Err(damaged(reason));
            }
        };
        let (lease, wanted) = (Arc::clone(lease), *digest);
        let found = blocking(move || {
            file.seek(SeekFrom::Start(0)).map_err(store::StoreError::Source)?;
            lease.put_blob(&mut file)
        })
        .await?;
        if found == wanted {
            return Ok(bytes);
        }
        Err(damaged(format!("its digest is {found}")))
    }

    /// Puts the result of a stage there under the key that it has there, with all that it
    /// needs, unless it is there already.
    ///
    /// # Errors
    /// When it cannot be written; the record is then not there.
    pub async fn push(
        &self,
        record: &StageRecord,
        there: &Digest,
        lease: &Arc<Lease>,
    ) -> Result<Moved, RemoteError> {
        let mut moved = Moved::default();
        let path = self.stage_path(there);
        if self.exists(&path).await? {
            return Ok(moved);
        }
        let record = StageRecord { key: *there, ..record.for_others() };
        for digest in record.objects() {
            let path = object_path(&digest);
            if self.exists(&path).await? {
                continue;
            }
            let lease = Arc::clone(lease);
            let mut file = temporary()?;
            let (mut file, bytes) = blocking(move || {
                let bytes = lease.copy_blob(&digest, &mut file)?;
                file.seek(SeekFrom::Start(0)).map_err(store::StoreError::Source)?;
                Ok((file, bytes))
            })
            .await?;
            let failed = |source| RemoteError::transfer("put", &self.place, &path, source);
            self.backend.put(&path, &mut file, bytes).await.map_err(failed)?;
            moved.objects += 1;
            moved.bytes += bytes;
        }
        let json = serde_json::to_vec(&record).map_err(|source| RemoteError::Encode { source })?;
        if json.len() as u64 > RECORD_MAX_BYTES {
            return Err(RemoteError::RecordTooLarge { bytes: json.len() });
        }
        let json = match &self.secret {
            Some(secret) => secret.seal(&json),
            None => json,
        };
        let mut file = temporary()?;
        std::io::Write::write_all(&mut file, &json)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .map_err(|source| RemoteError::Temporary { source })?;
        let failed = |source| RemoteError::transfer("put", &self.place, &path, source);
        self.backend.put(&path, &mut file, json.len() as u64).await.map_err(failed)?;
        moved.stages = 1;
        Ok(moved)
    }

    /// Where the record of a stage is. Signed ones have a place of their own, so that
    /// those who have no secret never read them, nor stand in their way.
    fn stage_path(&self, key: &Digest) -> String {
        let name = key.to_string();
        let folder = if self.secret.is_some() { "signed" } else { "stages" };
        format!("{LAYOUT}/{folder}/{}/{}.json", &name[..2], &name[2..])
    }

    async fn exists(&self, path: &str) -> Result<bool, RemoteError> {
        let failed = |source| RemoteError::transfer("look at", &self.place, path, source);
        self.backend.exists(path).await.map_err(failed)
    }

    async fn get_small(&self, path: &str) -> Result<Option<Vec<u8>>, RemoteError> {
        let mut file = temporary()?;
        let failed = |source| RemoteError::transfer("get", &self.place, path, source);
        // A signature stands on a line before the record.
        let max_bytes = RECORD_MAX_BYTES + signature::LINE_BYTES;
        match self.backend.get(path, &mut file, max_bytes).await.map_err(failed)? {
            Got::Whole(_) => {}
            Got::Missing => return Ok(None),
            Got::Larger => {
                tracing::warn!(path, max_bytes, "a shared record is larger than any that is read");
                return Ok(None);
            }
        }
        let mut content = Vec::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| std::io::Read::read_to_end(&mut file, &mut content))
            .map_err(|source| RemoteError::Temporary { source })?;
        Ok(Some(content))
    }
}

/// The record of a stage, as far as a shared cache holds any: `None` for a record of
/// another version, of another stage or of something else, and for one from which no
/// build can go on.
fn parse(content: &[u8], key: &Digest) -> Option<StageRecord> {
    let record = match StageRecord::from_json(content, key) {
        Ok(record) => record,
        Err(error) => {
            tracing::warn!(%key, reason = %error.reason(), "a shared record is of no use");
            return None;
        }
    };
    // What is pushed has none of these; they would be objects to fetch for nothing.
    let foreign =
        record.kind != RecordKind::Stage || record.log.is_some() || !record.files.is_empty();
    (record.resumable() && !foreign).then_some(record)
}

/// The objects that a record needs, each with the most bytes that it can have.
fn objects(record: &StageRecord) -> impl Iterator<Item = (Digest, u64)> + '_ {
    let layers = record.disks.values().flat_map(|disk| {
        let max_bytes = store::layer_max_bytes(disk.bytes);
        disk.layers.iter().map(move |layer| (*layer, max_bytes))
    });
    let files = record.files.iter().map(|file| {
        let max_bytes = if file.layer { store::layer_max_bytes(file.bytes) } else { file.bytes };
        (file.object, max_bytes)
    });
    layers.chain(record.log.map(|log| (log, LOG_MAX_BYTES))).chain(files)
}

fn object_path(digest: &Digest) -> String {
    let name = digest.to_string();
    format!("{LAYOUT}/objects/{}/{}", &name[..2], &name[2..])
}

fn temporary() -> Result<File, RemoteError> {
    tempfile::tempfile().map_err(|source| RemoteError::Temporary { source })
}

/// Work on files, off the threads that wait for the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::StoreError> + Send + 'static,
) -> Result<T, RemoteError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|source| RemoteError::Store { source }),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
