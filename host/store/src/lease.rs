//! The lease of a build on the store: what the build has read or written is protected from garbage
//! collection until it ends.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};

use crate::{
    Digest, ExtentSource, ExtentTarget, LayerContent, Merged, Result, StageRecord, Store,
    StoreError,
    layer::{self, DecodeError, Decoder, EncodeError},
    layout::Temporary,
};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// The size of the buffers for reading and copying, in bytes.
const COPY_BYTES: usize = 256 << 10;

/// Protects the objects that one build needs from garbage collection, until it is dropped or the
/// process ends.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    path: PathBuf,
    file: Mutex<File>,
    pinned: Mutex<HashSet<Digest>>,
}

/// A layer that has been stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredLayer {
    /// The digest that names the layer in the store.
    pub digest: Digest,
    /// The size of the layer in the store, in bytes.
    pub stored_bytes: u64,
    /// The amount of data in the layer.
    pub content: LayerContent,
}

impl Lease {
    pub(crate) fn begin(store: Store) -> Result<Self> {
        let _lock = store.lock(false)?;
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{count}", std::process::id());
            let path = store.layout.sessions().join(name);
            let opened = OpenOptions::new().append(true).create_new(true).open(&path);
            let file = match opened {
                Ok(file) => file,
                // An earlier process with the same ID left the file.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(StoreError::io("create", &path, e)),
            };
            file.lock().map_err(|e| StoreError::io("lock", &path, e))?;
            let (file, pinned) = (Mutex::new(file), Mutex::default());
            return Ok(Self { store, path, file, pinned });
        }
    }

    /// Returns the store of the lease.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Notes digests that this build needs. The caller holds the lock of the store.
    fn pin(&self, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        let mut pinned = self.pinned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new: Vec<Digest> = digests.into_iter().filter(|d| !pinned.contains(d)).collect();
        let lines: String = new.iter().map(|digest| format!("{digest}\n")).collect();
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(lines.as_bytes()).map_err(|e| StoreError::io("write", &self.path, e))?;
        pinned.extend(new);
        Ok(())
    }

    /// Looks up the record of a stage; `None` if it does not exist, or if one of its objects is
    /// missing. From now on, gc keeps the record and its objects, and the record counts as just
    /// used.
    ///
    /// # Errors
    /// Fails if the store cannot be read, or the lease's file cannot be written.
    pub fn lookup(&self, key: &Digest) -> Result<Option<StageRecord>> {
        let _lock = self.store.lock(false)?;
        let Some(record) = self.store.read_record(key)? else { return Ok(None) };
        let layout = &self.store.layout;
        if let Some(missing) = record.objects().find(|digest| !layout.object(digest).is_file()) {
            tracing::warn!(stage = %record.name, %missing, "a stage's result is incomplete");
            return Ok(None);
        }
        self.pin(record.objects().chain([*key]))?;
        // The time of use only determines the order in which gc removes records.
        let _ = File::open(layout.stage(key)).and_then(|f| f.set_modified(SystemTime::now()));
        Ok(Some(record))
    }

    /// Stores the record of a stage, whose objects must have been stored before.
    ///
    /// # Errors
    /// Fails if an object is missing, or the record cannot be written.
    pub fn put_record(&self, record: &StageRecord) -> Result<()> {
        let _lock = self.store.lock(false)?;
        let layout = &self.store.layout;
        if let Some(missing) = record.objects().find(|digest| !layout.object(digest).is_file()) {
            return Err(StoreError::Missing(missing));
        }
        self.pin([record.key])?;
        let path = layout.stage(&record.key);
        let json = serde_json::to_vec_pretty(record)
            .map_err(|e| StoreError::io("encode", &path, io::Error::other(e)))?;
        layout.write(&path, &json)
    }

    /// Removes the record of a stage, so that the stage runs again.
    ///
    /// # Errors
    /// Fails if the record cannot be removed.
    pub fn forget(&self, key: &Digest) -> Result<()> {
        let _lock = self.store.lock(false)?;
        self.store.layout.remove(&self.store.layout.stage(key))
    }

    /// Stores a layer.
    ///
    /// # Errors
    /// Fails if the source cannot be read, its extents are invalid, or the store cannot be written;
    /// nothing of the layer is then in the store.
    pub fn put_layer(&self, source: &mut dyn ExtentSource) -> Result<StoredLayer> {
        let temporary = self.store.layout.temporary()?;
        let mut out = Hashed::new(&temporary.file);
        let content = layer::encode(source, &mut out).map_err(|e| match e {
            EncodeError::Source(e) => StoreError::Source(e),
            EncodeError::Bad(reason) => StoreError::BadLayer(reason),
            EncodeError::Write(e) => StoreError::io("write", &temporary.path, e),
        })?;
        let (digest, stored_bytes) = out.finish();
        self.adopt(temporary, digest)?;
        Ok(StoredLayer { digest, stored_bytes, content })
    }

    /// Stores any bytes as an object, such as a log.
    ///
    /// # Errors
    /// Fails if the source cannot be read, or the store cannot be written.
    pub fn put_blob(&self, source: &mut dyn Read) -> Result<Digest> {
        let temporary = self.store.layout.temporary()?;
        let mut out = Hashed::new(&temporary.file);
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(StoreError::Source(e)),
            };
            out.write_all(&buffer[..count])
                .map_err(|e| StoreError::io("write", &temporary.path, e))?;
        }
        let (digest, _) = out.finish();
        self.adopt(temporary, digest)?;
        Ok(digest)
    }

    /// Gives a complete object its final name. An existing object of this name has the same
    /// content, or is damaged; replacing it is right in both cases.
    fn adopt(&self, temporary: Temporary, digest: Digest) -> Result<()> {
        let _lock = self.store.lock(false)?;
        self.pin([digest])?;
        temporary.rename(&self.store.layout.object(&digest))
    }

    /// Applies a layer to a disk.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Damaged`] if the store does not have the layer
    /// undamaged; [`StoreError::Target`] if the disk cannot be written. The data that has been
    /// written to the target by then must not be used, since the digest is checked only at the end.
    pub fn get_layer(
        &self,
        digest: &Digest,
        target: &mut dyn ExtentTarget,
    ) -> Result<LayerContent> {
        self.checked(digest, |input| {
            let mut decoder = Decoder::new(input).map_err(|e| Failure::Bad(e.to_string()))?;
            let content = layer::decode(&mut decoder, target).map_err(|e| match e {
                DecodeError::Bad(reason) => Failure::Bad(reason),
                DecodeError::Target(e) => Failure::Target(e),
            })?;
            Ok((content, decoder.into_inner()))
        })
    }

    /// Reads an object into `target`, and returns its size in bytes.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Self::get_layer`]; data in the target must not be used then.
    pub fn get_blob(&self, digest: &Digest, target: &mut dyn Write) -> Result<u64> {
        self.checked(digest, |mut input| {
            let mut buffer = vec![0; COPY_BYTES];
            let mut total = 0;
            loop {
                let count = input.read(&mut buffer).map_err(|e| Failure::Bad(e.to_string()))?;
                if count == 0 {
                    return Ok((total, io::BufReader::new(input)));
                }
                target.write_all(&buffer[..count]).map_err(Failure::Target)?;
                total += count as u64;
            }
        })
    }

    /// Opens an object for reading, after its content has been read once and checked.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Damaged`] if the store does not have the object
    /// undamaged.
    pub fn open_blob(&self, digest: &Digest) -> Result<io::BufReader<File>> {
        self.get_blob(digest, &mut io::sink())?;
        Ok(io::BufReader::with_capacity(COPY_BYTES, self.open(digest)?))
    }

    /// Copies an object into an empty file, and returns its size in bytes. The file shares blocks
    /// with the store where the filesystem supports it.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Self::get_layer`].
    pub fn copy_blob(&self, digest: &Digest, target: &mut File) -> Result<u64> {
        self.get_blob(digest, &mut io::sink())?;
        // `io::copy` uses copy_file_range(2) for files, which can share blocks.
        let mut file = self.open(digest)?;
        io::copy(&mut file, target).map_err(StoreError::Target)
    }

    /// Restores a disk from its layers to a file that does not exist yet. If a layer cannot be
    /// applied, the file is removed.
    ///
    /// # Errors
    /// Fails if the file cannot be created, or for the same reasons as [`Self::get_layer`].
    pub fn restore(&self, disk: &crate::DiskState, path: &Path) -> Result<()> {
        let mut target = crate::RawTarget::create(path, disk.bytes)?;
        let applied =
            disk.layers.iter().try_for_each(|digest| self.get_layer(digest, &mut target).map(drop));
        if applied.is_err() {
            let _ = fs::remove_file(path);
        }
        applied
    }

    /// Merges layers into one, to limit the length of chains. The layers are given from the lowest
    /// to the topmost. `None` if no layers are given.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Self::get_layer`] and [`Self::put_layer`].
    pub fn merge(&self, layers: &[Digest]) -> Result<Option<StoredLayer>> {
        let mut merged: Option<Box<dyn ExtentSource>> = None;
        for digest in layers {
            // Check the digests first: a damaged layer would be stored under a new, valid name.
            self.get_layer(digest, &mut Nowhere)?;
            let file = self.open(digest)?;
            let bad = |e: io::Error| self.damaged(digest, e.to_string());
            let upper = Decoder::new(file).map_err(bad)?;
            merged = Some(match merged {
                None => Box::new(upper),
                Some(lower) => Box::new(Merged::new(lower, upper)),
            });
        }
        merged.map(|mut source| self.put_layer(&mut source)).transpose()
    }

    fn open(&self, digest: &Digest) -> Result<File> {
        let path = self.store.layout.object(digest);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing(*digest));
            }
            opened => opened.map_err(|e| StoreError::io("open", &path, e)),
        };
        file.map_err(|error| match error.is_passing() {
            true => error,
            // An object that cannot be opened is as good as one with another content.
            false => self.damaged(digest, checked::chain(&error)),
        })
    }

    /// Reads an object with `read`, which returns the rest of its input, and checks that the whole
    /// object has the digest that names it.
    fn checked<T>(
        &self,
        digest: &Digest,
        read: impl FnOnce(
            HashedReader,
        ) -> std::result::Result<(T, io::BufReader<HashedReader>), Failure>,
    ) -> Result<T> {
        let file = {
            let _lock = self.store.lock(false)?;
            let file = self.open(digest)?;
            self.pin([*digest])?;
            file
        };
        match read(HashedReader { file, hash: Sha256::new() }) {
            Err(Failure::Target(e)) => Err(StoreError::Target(e)),
            Err(Failure::Bad(reason)) => Err(self.damaged(digest, reason)),
            Ok((value, mut rest)) => {
                io::copy(&mut rest, &mut io::sink())
                    .map_err(|e| self.damaged(digest, e.to_string()))?;
                let found = Digest(rest.into_inner().hash.finalize().into());
                if found == *digest {
                    Ok(value)
                } else {
                    Err(self.damaged(digest, format!("its content has the digest {found}")))
                }
            }
        }
    }

    /// Removes a damaged object from the store, and returns the error for it.
    fn damaged(&self, digest: &Digest, reason: String) -> StoreError {
        tracing::warn!(%digest, reason, "an object of the store is damaged");
        // If it cannot be removed, the next read finds the damage again.
        let _ = self.store.layout.remove(&self.store.layout.object(digest));
        StoreError::Damaged { digest: *digest, reason }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If this fails, the next gc removes the file, since its lock is free then.
        let _ = fs::remove_file(&self.path);
    }
}

enum Failure {
    Bad(String),
    Target(io::Error),
}

impl ExtentSource for Box<dyn ExtentSource> {
    fn disk_bytes(&self) -> u64 {
        self.as_ref().disk_bytes()
    }

    fn next_extent(&mut self) -> io::Result<Option<crate::Extent>> {
        self.as_mut().next_extent()
    }
}

/// Discards extents.
struct Nowhere;

impl ExtentTarget for Nowhere {
    fn extent(&mut self, _: &crate::Extent) -> io::Result<()> {
        Ok(())
    }
}

/// Counts and hashes the bytes written to a file.
struct Hashed<'a> {
    out: &'a File,
    hash: Sha256,
    bytes: Cell<u64>,
}

impl<'a> Hashed<'a> {
    fn new(out: &'a File) -> Self {
        Self { out, hash: Sha256::new(), bytes: Cell::new(0) }
    }

    fn finish(self) -> (Digest, u64) {
        (Digest(self.hash.finalize().into()), self.bytes.get())
    }
}

impl Write for Hashed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = (&mut &*self.out).write(buf)?;
        self.hash.update(&buf[..count]);
        self.bytes.set(self.bytes.get() + count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hashes the bytes read from a file.
struct HashedReader {
    file: File,
    hash: Sha256,
}

impl Read for HashedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buf)?;
        self.hash.update(&buf[..count]);
        Ok(count)
    }
}
