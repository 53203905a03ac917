//! The shared cache: a user reuses the results of stages that another user has built. This page
//! specifies its content, version 1.
//!
//! ```text
//!   PREFIX/v1/objects/ab/cdef…      a layer, named by the SHA-256 of its bytes
//!   PREFIX/v1/stages/ab/cdef….json  the record of a stage, named by its key
//!   PREFIX/v1/signed/ab/cdef….json  the same, after a line with its signature
//! ```
//!
//! Both kinds of files are those of the store ([`store`]), but records have no logs, inputs,
//! connections or parents. Keys are made with the salt of the shared cache ([`Remote::salt`]),
//! which is derived from its secret: all users with the secret have the same keys, and others
//! cannot find a weak value of a variable by guessing. Without a secret the salt is public. A
//! record is written after the objects that it names, and a file that exists is never written
//! again, so readers and writers need no lock.
//!
//! Every fetched object is checked by its digest, which the record names; a record is checked for
//! its key and version. So damage costs time, and never causes a wrong image. But a record itself
//! determines the objects of its key: without more, everybody with write access to the place
//! determines what its readers build. With a secret ([`Options::secret`]) only signed records are
//! written and read; without one, the user must permit unsigned records. The signature
//! ([`signature`]) covers the whole record, and all objects by their digests in it, so it binds the
//! content to the key. A record that is not signed with the secret is refused, whatever its source.
//!
//! Architecture invariant: this crate uses the store, and neither plans nor machines.

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
/// Maximum size of a record that is read or written, in bytes. A record lists inputs (a hundred
/// bytes each), layers and facts; the log and the connections are only in the user's store. The
/// worst JSON takes sixteen times its size in memory.
const RECORD_MAX_BYTES: u64 = 8 << 20;
/// Maximum size of a stage's log, in bytes: twice the limit of the engine.
const LOG_MAX_BYTES: u64 = 16 << 20;

/// A client of a shared cache.
#[derive(Debug)]
pub struct Remote {
    place: Place,
    backend: Arc<dyn Backend>,
    secret: Option<Secret>,
}

/// The identity of a fetched stage in the user's own store, whose keys are made with another salt
/// than those of the shared cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// The key of the stage in the user's own store.
    pub key: Digest,
    /// The key of the stage before it in the user's own store.
    pub parent: Option<Digest>,
    /// The digests of the stage's inputs, by name.
    pub inputs: BTreeMap<Printable, Digest>,
}

/// The amount of data that was fetched or pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// The number of records.
    pub stages: usize,
    /// The number of objects that the receiving side did not have.
    pub objects: usize,
    /// The total size of the moved objects, in bytes.
    pub bytes: u64,
}

impl Remote {
    /// Prepares the access to a place. Only the directory of [`Place::Folder`] is accessed: it is
    /// created if it is missing.
    ///
    /// # Errors
    /// Fails if the place cannot be used.
    pub fn open(place: Place, options: &Options) -> Result<Self, RemoteError> {
        let backend = open::open(&place, options)?;
        Ok(Self { place, backend, secret: options.secret.clone() })
    }

    /// Returns the place of the cache.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the salt with which the stage keys of this cache are made. `None` if its results are
    /// not signed: all users then have the same keys.
    #[must_use]
    pub fn salt(&self) -> Option<[u8; 32]> {
        self.secret.as_ref().map(Secret::salt)
    }

    /// Fetches the result of the stage with the key `there`, with all objects that it needs, into
    /// the store, under the key of `here`. `None` if there is no usable result. The stored record
    /// names this cache as its origin, and its age counts from now at the latest.
    ///
    /// # Errors
    /// Fails if the cache cannot be reached, a record is not signed with the secret, an object is
    /// missing or damaged, or the store cannot be written.
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
            // Objects that the store has undamaged are not fetched again.
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

    /// Pushes the result of a stage, with all objects that it needs, under the key `there`. Does
    /// nothing if the cache has a record of this key.
    ///
    /// # Errors
    /// Fails if the store cannot be read or the cache cannot be written. The record is written
    /// last, so it does not exist then.
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

    /// Returns the path of a stage's record. Signed records have a directory of their own, so that
    /// users without the secret neither read them nor take their names.
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
        // A signed record begins with a line for its signature.
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

/// Parses the record of a stage. `None` for a record of another version or stage, one that is not
/// of a stage, has a log or files, or has no disks from which a build can resume.
fn parse(content: &[u8], key: &Digest) -> Option<StageRecord> {
    let record = match StageRecord::from_json(content, key) {
        Ok(record) => record,
        Err(error) => {
            tracing::warn!(%key, reason = %error.reason(), "a shared record is of no use");
            return None;
        }
    };
    // Pushed records have none of these, and their objects would be fetched in vain.
    let foreign =
        record.kind != RecordKind::Stage || record.log.is_some() || !record.files.is_empty();
    (record.resumable() && !foreign).then_some(record)
}

/// Returns the objects that a record needs, each with its maximum size in bytes.
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

/// Runs work on files on a thread that does not serve the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::StoreError> + Send + 'static,
) -> Result<T, RemoteError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|source| RemoteError::Store { source }),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
