//! The appliances in the user's cache. On disk:
//!
//! ```text
//! appliance/
//!   lock                 held while an appliance is built or removed
//!   files/SHA256         packages and indices, by their digest
//!   requests/KEY         the digest of the appliance that answers a request
//!   DIGEST/              one appliance, read-only
//!     manifest.json  kernel  modules.cpio  root.img
//!   suite-dates.json     the newest state of each suite that a mirror has served
//!   initrd/…             initramfs files, one for each agent and appliance
//!   new-PID/             an appliance being made; removed by the next builder
//! ```
//!
//! An appliance appears when its complete directory is renamed. A user of an appliance holds a
//! shared lock on its manifest, so that `gc` keeps it.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::{error::Error, initramfs, manifest::Manifest};

/// The file name of the kernel in an appliance.
pub(crate) const KERNEL_FILE: &str = "kernel";
/// The file name of the archive of modules in an appliance.
pub(crate) const MODULES_FILE: &str = "modules.cpio";
/// The file name of the tools root in an appliance.
pub(crate) const ROOT_FILE: &str = "root.img";
/// The file name of the manifest in an appliance.
pub(crate) const MANIFEST_FILE: &str = "manifest.json";
/// The name prefix of directories in which an appliance is being built.
const NEW_PREFIX: &str = "new-";
/// Minimum age of initramfs files to be removed: younger ones may be about to be booted.
const INITRD_AGE_MIN: Duration = Duration::from_secs(3600);

/// The part of the user's cache that contains the appliances.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

/// The exclusive lock of a build.
#[derive(Debug)]
pub(crate) struct BuildLock {
    _file: Flock<File>,
}

/// An appliance in use: it is not removed while this value lives.
#[derive(Debug)]
pub struct Appliance {
    dir: PathBuf,
    initrd_dir: PathBuf,
    manifest: Manifest,
    _in_use: Flock<File>,
}

impl Appliance {
    /// Returns the path of the kernel: an ELF file with a PVH entry, or otherwise a bzImage.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.dir.join(KERNEL_FILE)
    }

    /// Returns the kernel's release, as in `uname -r`.
    #[must_use]
    pub fn kernel_version(&self) -> &str {
        &self.manifest.kernel.release
    }

    /// Returns the path of the tools root: an ext4 image in a raw file, to be attached read-only.
    #[must_use]
    pub fn root_image(&self) -> PathBuf {
        self.dir.join(ROOT_FILE)
    }

    /// Returns the digest of the appliance's inputs, which is its name.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.manifest.digest
    }

    /// Returns the manifest of the appliance.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the directory of the appliance.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of the initramfs that boots this agent, which is created if it does not
    /// exist.
    ///
    /// # Errors
    /// Fails if the agent cannot be read or the cache cannot be written.
    pub fn initrd_for(&self, agent: &Path) -> Result<PathBuf, Error> {
        let modules = self.dir.join(MODULES_FILE);
        initrd(&self.initrd_dir, &modules, &self.manifest.digest, agent)
    }
}

/// Combines an agent and an archive of modules into an initramfs in `dir`, unless it exists.
/// Returns its path.
pub(crate) fn initrd(
    dir: &Path,
    modules: &Path,
    digest: &str,
    agent: &Path,
) -> Result<PathBuf, Error> {
    let agent_bytes = fs::read(agent).map_err(Error::file("cannot read the agent", agent))?;
    let mut hasher = Sha256::new();
    hasher.update(digest.as_bytes());
    hasher.update(&agent_bytes);
    let path = dir.join(format!("{}.cpio", hex::encode(hasher.finalize())));
    if is_readable(&path) {
        return Ok(path);
    }
    let failed = || Error::file("cannot write the initramfs", &path);
    fs::create_dir_all(dir).map_err(failed())?;
    let mut bytes = initramfs::agent_archive(&agent_bytes).map_err(failed())?;
    let modules_bytes =
        fs::read(modules).map_err(Error::file("cannot read the kernel modules", modules))?;
    bytes.extend(modules_bytes);
    write_atomically(&path, &bytes).map_err(failed())?;
    Ok(path)
}

/// Writes a file under a temporary name and renames it, so that it is never visible incomplete. A
/// directory in its place is removed.
fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    if path.is_dir() {
        fs::remove_dir_all(path)?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

impl Cache {
    /// Uses the appliances below a cache directory, which need not exist.
    #[must_use]
    pub fn new(cache_dir: &Path) -> Self {
        Self { dir: cache_dir.join("appliance") }
    }

    /// Returns the directory of packages and indices.
    pub(crate) fn files_dir(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// Returns the path of the record with the newest state of each suite.
    pub(crate) fn seen_dates(&self) -> PathBuf {
        self.dir.join("suite-dates.json")
    }

    pub(crate) fn initrd_dir(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    pub(crate) fn create(&self) -> Result<(), Error> {
        for dir in [self.files_dir(), self.dir.join("requests"), self.initrd_dir()] {
            fs::create_dir_all(&dir).map_err(Error::file("cannot create the folder", &dir))?;
        }
        Ok(())
    }

    /// Takes the build lock; calls `waiting` if another process has it.
    pub(crate) fn lock(&self, waiting: &mut dyn FnMut(&Path)) -> Result<BuildLock, Error> {
        let path = self.dir.join("lock");
        let failed = || Error::file("cannot lock", &path);
        let file = File::options().create(true).append(true).open(&path).map_err(failed())?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                waiting(&path);
                Flock::lock(file, FlockArg::LockExclusive)
                    .map_err(|(_, errno)| failed()(errno.into()))?
            }
            Err((_, errno)) => return Err(failed()(errno.into())),
        };
        Ok(BuildLock { _file: file })
    }

    /// Opens the appliance of a digest; `None` if it does not exist, or if one of its files is
    /// damaged or cannot be read: it can be made again.
    pub(crate) fn open(&self, digest: &str) -> Result<Option<Appliance>, Error> {
        let dir = self.dir.join(digest);
        let path = dir.join(MANIFEST_FILE);
        let failed = || Error::file("cannot lock the appliance", &path);
        let Ok(file) = File::open(&path) else { return Ok(None) };
        let in_use =
            Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| failed()(errno.into()))?;
        // It may have been removed between opening and locking.
        if !path.exists() {
            return Ok(None);
        }
        let Ok(manifest) = Manifest::read(&path) else { return Ok(None) };
        let files = [KERNEL_FILE, MODULES_FILE, ROOT_FILE];
        if !files.iter().all(|file| is_readable(&dir.join(file))) {
            return Ok(None);
        }
        Ok(Some(Appliance { dir, initrd_dir: self.initrd_dir(), manifest, _in_use: in_use }))
    }

    /// Returns the recorded appliance of a request; `None` if there is none, or if the record or
    /// the appliance is damaged.
    pub(crate) fn answer(&self, key: &str) -> Result<Option<Appliance>, Error> {
        match fs::read_to_string(self.dir.join("requests").join(key)) {
            Ok(digest) if is_digest(digest.trim()) => self.open(digest.trim()),
            _ => Ok(None),
        }
    }

    /// Whether there is a record for a request, damaged or not.
    pub(crate) fn has_record(&self, key: &str) -> bool {
        fs::symlink_metadata(self.dir.join("requests").join(key)).is_ok()
    }

    /// Records the appliance of a request.
    pub(crate) fn record(&self, key: &str, digest: &str) -> Result<(), Error> {
        let path = self.dir.join("requests").join(key);
        write_atomically(&path, format!("{digest}\n").as_bytes())
            .map_err(Error::file("cannot write", &path))
    }

    /// Creates a directory in which to build an appliance. Requires the build lock.
    pub(crate) fn new_folder(&self, _lock: &BuildLock) -> Result<PathBuf, Error> {
        let path = self.dir.join(format!("{NEW_PREFIX}{}", std::process::id()));
        remove_folder(&path)?;
        fs::create_dir(&path).map_err(Error::file("cannot create the folder", &path))?;
        Ok(path)
    }

    /// Removes remnants of failed builds. Requires the build lock, so that none of them is in use.
    pub(crate) fn remove_leftovers(&self, _lock: &BuildLock) -> Result<(), Error> {
        for (name, path) in self.folders()? {
            if name.starts_with(NEW_PREFIX) {
                remove_folder(&path)?;
            }
        }
        Ok(())
    }

    /// Publishes a complete directory as an appliance: makes its files read-only and renames it.
    /// Requires the build lock.
    pub(crate) fn publish(
        &self,
        _lock: &BuildLock,
        folder: &Path,
        digest: &str,
    ) -> Result<(), Error> {
        for entry in fs::read_dir(folder).map_err(Error::file("cannot read", folder))? {
            let path = entry.map_err(Error::file("cannot read", folder))?.path();
            let failed = || Error::file("cannot make read-only", &path);
            let file = File::open(&path).map_err(failed())?;
            let mut permissions = file.metadata().map_err(failed())?.permissions();
            permissions.set_readonly(true);
            file.set_permissions(permissions).map_err(failed())?;
            file.sync_all().map_err(failed())?;
        }
        let path = self.dir.join(digest);
        remove_folder(&path)?;
        fs::rename(folder, &path).map_err(Error::file("cannot publish the appliance as", &path))
    }

    /// Returns all appliances, newest first, without damaged ones.
    ///
    /// # Errors
    /// Fails if the cache cannot be read.
    pub fn list(&self) -> Result<Vec<Appliance>, Error> {
        let mut found = Vec::new();
        for (name, _) in self.folders()? {
            if is_digest(&name)
                && let Ok(Some(appliance)) = self.open(&name)
            {
                found.push(appliance);
            }
        }
        found.sort_by(|a, b| {
            (b.manifest.created, &b.manifest.digest).cmp(&(a.manifest.created, &a.manifest.digest))
        });
        Ok(found)
    }

    fn folders(&self) -> Result<Vec<(String, PathBuf)>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file("cannot read", &self.dir)(error)),
        };
        let mut folders: Vec<(String, PathBuf)> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .collect();
        folders.sort();
        Ok(folders)
    }

    /// Removes unused appliances to which no request refers (with `all`, those to which one refers,
    /// too), the packages and indices that no remaining appliance contains, and initramfs files
    /// that are older than an hour.
    ///
    /// # Errors
    /// Fails if the cache cannot be read, or if something cannot be removed.
    pub fn gc(&self, all: bool, waiting: &mut dyn FnMut(&Path)) -> Result<Freed, Error> {
        let mut freed = Freed::default();
        if !self.dir.exists() {
            return Ok(freed);
        }
        self.create()?;
        let lock = self.lock(waiting)?;
        self.remove_leftovers(&lock)?;
        let requests = self.dir.join("requests");
        let mut wanted = Vec::new();
        for path in files_of(&requests)? {
            if all {
                fs::remove_file(&path).map_err(Error::file("cannot remove", &path))?;
            } else if let Ok(digest) = fs::read_to_string(&path) {
                wanted.push(digest.trim().to_owned());
            }
        }
        let mut packages = std::collections::BTreeSet::new();
        for (name, path) in self.folders()?.into_iter().filter(|(name, _)| is_digest(name)) {
            let manifest = Manifest::read(&path.join(MANIFEST_FILE)).ok();
            let keep = manifest.is_some() && wanted.contains(&name) || is_in_use(&path);
            if keep {
                let digests = manifest.into_iter().flat_map(|manifest| manifest.packages);
                packages.extend(digests.map(|package| package.sha256));
            } else {
                freed.bytes += folder_bytes(&path);
                freed.appliances += 1;
                remove_folder(&path)?;
            }
        }
        for path in files_of(&self.files_dir())? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !packages.contains(name) {
                freed.bytes += disk_bytes(&path);
                freed.files += 1;
                fs::remove_file(&path).map_err(Error::file("cannot remove", &path))?;
            }
        }
        for path in files_of(&self.initrd_dir())? {
            let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
            let age = age.and_then(|time| SystemTime::now().duration_since(time).ok());
            if age.is_some_and(|age| age > INITRD_AGE_MIN) {
                freed.bytes += disk_bytes(&path);
                fs::remove_file(&path).map_err(Error::file("cannot remove", &path))?;
            }
        }
        Ok(freed)
    }
}

/// The result of [`Cache::gc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freed {
    /// Number of appliances removed.
    pub appliances: usize,
    /// Number of packages and indices removed.
    pub files: usize,
    /// Bytes freed on disk.
    pub bytes: u64,
}

/// Whether a file can be opened and is not empty.
fn is_readable(path: &Path) -> bool {
    let metadata = File::open(path).and_then(|file| file.metadata());
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0)
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a process holds the shared lock on an appliance.
fn is_in_use(folder: &Path) -> bool {
    File::open(folder.join(MANIFEST_FILE))
        .is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}

fn files_of(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(dir).map_err(Error::file("cannot read", dir))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
}

/// Returns the disk space of a file in bytes, which is less than its length if it is sparse.
pub(crate) fn disk_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

fn folder_bytes(dir: &Path) -> u64 {
    files_of(dir).map_or(0, |files| files.iter().map(|path| disk_bytes(path)).sum())
}

/// Removes a directory, or a file in its place. It is no error if it does not exist.
fn remove_folder(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            // Without permission to list it, it could not be emptied.
            let _ = fs::set_permissions(path, Permissions::from_mode(0o700));
            fs::remove_dir_all(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("cannot remove", path)(error))
        }
        _ => Ok(()),
    }
}
