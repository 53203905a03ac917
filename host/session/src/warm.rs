//! Warm machines: the saved memory of machines whose agent has just begun to listen. A machine is
//! saved once for each appliance and shape, and is then restored instead of booted.
//!
//! ```text
//!  first use     boot the root and spare disks ─► the agent parks the spares ─► save ─► end
//!  every use     restore with the disks at hand ─► hello: clock, entropy ─► unpark them
//! ```
//!
//! A saved machine has run only the appliance's own kernel and agent: no disk, variable or
//! connection of a build was there. The number of slots for disks is fixed, because a machine is
//! restored with as many devices as it was saved with; spare disks fill the slots that are not
//! needed.
//!
//! No build depends on this: if anything here fails, the machine boots instead.

use std::{
    fs::{self, File, FileTimes},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use machine::{
    Backend, BlockSize, ConnectDecision, Drive, DriveFormat, DriveSerial, Machine, MachineSpec,
    SavedMachine, Start,
};
use sha2::{Digest, Sha256};
use wire::{CONSOLE_PREFIX, PARK_WORD, PARKED};

use crate::{BootOptions, Session, SessionError, boot};

/// Number of disks of a saved machine, including the root. A machine with more disks boots.
const SLOTS: usize = 8;
/// Maximum number of saved machines; each takes some 100 MiB. The least recently used ones are
/// removed.
const KEPT_MAX: usize = 4;
/// Size of the file behind spare disks: the smallest that has a block of 4,096 bytes.
const SPARE_BYTES: u64 = 4096;
/// Time limit for the hello of a restored guest, which needs some ten milliseconds. If the guest
/// stays silent, the machine boots instead.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Interval of checks of the console of a machine that will be saved.
const PARKED_POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Time for which machines boot after one could not be saved or restored. Then another attempt is
/// made.
const REFUSED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Name of the file with the reason why a machine cannot be saved or restored.
const REFUSED: &str = "refused";
/// Name of the file that marks a machine whose last restore failed. A single failure can have
/// another cause, such as a killed process; only the second failure in a row makes the machine
/// refused.
const DOUBTED: &str = "doubted";
/// Name of the file behind spare disks.
const SPARE: &str = "spare";
/// Prefix of names of directories that are being written.
const UNFINISHED: &str = "new-";
/// The prefix of the kernel command line's word with the serial of the root disk.
const ROOT_WORD: &str = "vbuild.root=";

/// Saved machines in a directory of the user's cache.
#[derive(Debug, Clone)]
pub struct WarmMachines {
    directory: PathBuf,
}

/// The reasons why a machine is not started from saved memory.
#[derive(Debug, thiserror::Error)]
enum Cold {
    #[error("{0}")]
    Unsuitable(&'static str),
    #[error("it could not be saved before: {0}")]
    Refused(String),
    #[error("cannot {action} `{path}`: {source}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the machine saved in `{saved}` does not start: {source}")]
    NotRestored { saved: PathBuf, again: bool, source: SessionError },
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// The recorded reason why a machine could not be saved or restored, which prevents further
/// attempts for a while.
struct Refusal {
    reason: String,
    at: SystemTime,
}

impl Refusal {
    /// Whether the refusal is old enough for another attempt, since the cause may be gone.
    fn is_old(&self) -> bool {
        self.at.elapsed().is_ok_and(|age| age > REFUSED_FOR)
    }
}

fn refusal(saved: &Path) -> Option<Refusal> {
    let path = saved.join(REFUSED);
    let reason = fs::read_to_string(&path).ok()?;
    Some(Refusal { reason, at: path.metadata().ok()?.modified().ok()? })
}

fn refuse(saved: &Path, reason: &dyn std::error::Error) -> Result<(), Cold> {
    let path = saved.join(REFUSED);
    fs::write(&path, checked::chain(reason)).map_err(file_error("write", &path))
}

/// Records that a machine could not be restored. After the second failure in a row, it is refused.
/// Notes that a machine could not be restored. If that is so `again`, the
/// restore before it having failed too, keeps later ones from trying.
fn doubt(saved: &Path, again: bool, reason: &dyn std::error::Error) -> Result<(), Cold> {
    if again {
        return refuse(saved, reason);
    }
    let path = saved.join(DOUBTED);
    File::create(&path).map(drop).map_err(file_error("create", &path))
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Cold {
    let path = path.to_owned();
    move |source| Cold::File { action, path, source }
}

impl WarmMachines {
    /// Uses a directory for saved machines, which must belong to the user. It is created when
    /// needed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Removes all saved machines, and returns their number. A machine that is being restored is
    /// not disturbed. The next machine of each kind is saved again.
    ///
    /// # Errors
    /// Fails if the directory cannot be read, or if a saved machine cannot be removed.
    pub fn clear(&self) -> io::Result<usize> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?.collect::<io::Result<Vec<_>>>()?,
        };
        entries.iter().try_for_each(|entry| fs::remove_dir_all(entry.path()))?;
        Ok(entries.len())
    }

    async fn restore(&self, backend: &dyn Backend, spec: &MachineSpec) -> Result<Session, Cold> {
        suitable(spec)?;
        let identity = backend.saving_identity(spec).await;
        let identity = identity.ok_or(Cold::Unsuitable("this backend saves no machines"))?;
        let saved = self.directory.join(key(&identity, spec)?);
        if refusal(&saved).is_some_and(|refusal| refusal.is_old()) {
            fs::remove_dir_all(&saved).map_err(file_error("remove", &saved))?;
        }
        if !saved.exists() {
            self.make(backend, spec, &saved).await?;
        }
        if let Some(refusal) = refusal(&saved) {
            return Err(Cold::Refused(refusal.reason));
        }
        // The modification time is that of the last use, by which the oldest machines are removed.
        let now = FileTimes::new().set_modified(SystemTime::now());
        let _ = File::open(&saved).and_then(|directory| directory.set_times(now));
        let mut spec = spec.clone();
        let disks = spec.drives.len() - 1;
        spec.drives.extend(spares(disks, &saved.join(SPARE))?);
        spec.start = Start::Restore(SavedMachine(saved.clone()));
        let options = BootOptions { deadline: HELLO_DEADLINE, attempts: 1 };
        // Builds side by side may all fail for one reason, so failures since now do not count.
        let again = saved.join(DOUBTED).exists();
        let restored = match boot(backend, spec, &options).await {
            Ok(session) => session.unpark(disks).await.map(|()| session),
            Err(error) => Err(error),
        };
        // The file exists only if the last restore failed.
        let _ = restored.is_ok().then(|| fs::remove_file(saved.join(DOUBTED)));
        restored.map_err(|source| Cold::NotRestored { saved, again, source })
    }

    /// Boots a machine of this shape without the disks of the build, and saves it. If that fails,
    /// records the reason instead.
    async fn make(&self, backend: &dyn Backend, spec: &MachineSpec, to: &Path) -> Result<(), Cold> {
        create_private(&self.directory)?;
        let new = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&self.directory);
        let new = new.map_err(file_error("create a directory in", &self.directory))?;
        if let Err(error) = save(backend, spec, new.path()).await {
            tracing::warn!(%error, "a machine cannot be saved; machines boot instead");
            let _ = fs::remove_file(SavedMachine(new.path().to_owned()).memory());
            refuse(new.path(), &error)?;
        }
        // This fails if another process was faster; then the machine that it saved is used.
        if fs::rename(new.path(), to).is_ok() {
            let _ = new.keep();
        }
        self.forget_oldest(to);
        Ok(())
    }

    /// Removes the least recently used entries of the directory beyond [`KEPT_MAX`], including
    /// directories that were never finished. The newest machine is kept.
    fn forget_oldest(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut used: Vec<_> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path != newest)
            .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
            .collect();
        used.sort();
        used.reverse();
        for (_, path) in used.into_iter().skip(KEPT_MAX - 1) {
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::debug!(%error, path = %path.display(), "cannot remove a saved machine");
            }
        }
    }
}

/// Starts a machine from the memory that is saved in `warm`. If there is none yet, it is saved
/// there first. If that does not work, or without `warm`, boots the machine.
///
/// # Errors
/// Fails if the machine cannot be booted, as [`boot`] does.
pub async fn start(
    warm: Option<&WarmMachines>,
    backend: &dyn Backend,
    spec: MachineSpec,
    options: &BootOptions,
) -> Result<Session, SessionError> {
    let Some(warm) = warm else { return boot(backend, spec, options).await };
    let cold = match warm.restore(backend, &spec).await {
        Ok(session) => return Ok(session),
        Err(cold) => cold,
    };
    tracing::debug!(reason = %cold, "the machine boots");
    let booted = boot(backend, spec, options).await?;
    // The boot succeeded, so neither the disks nor the host caused the failure of the restore.
    if let Cold::NotRestored { saved, again, source } = &cold {
        tracing::warn!(%cold, "the machine boots instead");
        if let Err(error) = doubt(saved, *again, source) {
            tracing::debug!(%error, "a saved machine will be tried again");
        }
    }
    Ok(booted)
}

/// Checks whether machines of this kind can be saved: the first disk is the root, which the agent
/// mounts at boot, and is read-only; there are slots for the other disks; and the boot need not be
/// shown on the console.
fn suitable(spec: &MachineSpec) -> Result<(), Cold> {
    let root = spec.cmdline.iter().find_map(|word| word.strip_prefix(ROOT_WORD));
    let first = spec.drives.first();
    if root.is_none() || root != first.map(|drive| drive.serial.as_str()) {
        return Err(Cold::Unsuitable("its first disk is not its root"));
    }
    if first.is_some_and(|drive| !drive.read_only) {
        return Err(Cold::Unsuitable("its root is writable"));
    }
    if spec.drives.len() > SLOTS {
        return Err(Cold::Unsuitable("it has more disks than slots"));
    }
    if spec.verbose_console {
        return Err(Cold::Unsuitable("its boot is to be seen"));
    }
    Ok(())
}

/// Returns the name of a saved machine: a digest of everything that it depends on.
fn key(identity: &str, spec: &MachineSpec) -> Result<String, Cold> {
    let root = spec.drives.iter().take(1).map(|drive| &drive.path);
    let files = [&spec.kernel, &spec.initrd].into_iter().chain(root);
    let files: Vec<_> = files
        .map(|path| {
            let file = path.metadata().map_err(file_error("look at", path))?;
            let changed = (file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec());
            Ok((file.dev(), file.ino(), file.len(), changed))
        })
        .collect::<Result<_, Cold>>()?;
    let MachineSpec { vcpus, memory_mib, architecture, cmdline, .. } = spec;
    let version = (env!("CARGO_PKG_VERSION"), wire::PROTOCOL_VERSION, SLOTS);
    let shape = (vcpus, memory_mib, architecture, cmdline);
    let text = format!("{identity} {version:?} {shape:?} {files:?}");
    Ok(hex::encode(Sha256::digest(text)))
}

/// Returns spare disks for the slots after the root and `used` other disks.
fn spares(used: usize, file: &Path) -> Result<Vec<Drive>, Cold> {
    let spare = |number: usize| {
        let serial = DriveSerial::new(format!("spare-{number}"));
        Ok(Drive {
            serial: serial.map_err(machine::MachineError::from).map_err(SessionError::from)?,
            path: file.to_owned(),
            format: DriveFormat::Raw,
            below: Vec::new(),
            read_only: true,
            durable: false,
            block_size: BlockSize::B512,
        })
    };
    (used + 1..SLOTS).map(spare).collect()
}

async fn save(backend: &dyn Backend, spec: &MachineSpec, into: &Path) -> Result<(), Cold> {
    let spare = into.join(SPARE);
    let made = File::create(&spare).and_then(|file| file.set_len(SPARE_BYTES));
    made.map_err(file_error("create", &spare))?;
    let mut spec = spec.clone();
    spec.name = "warm".to_owned();
    spec.drives.truncate(1);
    spec.drives.extend(spares(0, &spare)?);
    spec.on_guest_connect = Arc::new(|_| ConnectDecision::Refuse);
    spec.run_dir = into.to_owned();
    spec.start = Start::BootToSave;
    let serials: Vec<_> = spec.drives[1..].iter().map(|drive| drive.serial.as_str()).collect();
    spec.cmdline.push(format!("{PARK_WORD}{}", serials.join(",")));
    let machine = backend.start(spec).await.map_err(SessionError::from)?;
    let saved = match parked(machine.as_ref()).await {
        Ok(()) => machine.save(&SavedMachine(into.to_owned())).await.map_err(SessionError::from),
        Err(error) => Err(error),
    };
    machine.kill().await;
    Ok(saved?)
}

/// Waits until the agent reports on the console that it has parked the spare disks.
async fn parked(machine: &dyn Machine) -> Result<(), SessionError> {
    let line = format!("{CONSOLE_PREFIX}{PARKED}");
    let said = async {
        while !machine.console_tail().contains(&line) {
            tokio::time::sleep(PARKED_POLL_INTERVAL).await;
        }
    };
    let deadline = BootOptions::default().deadline;
    tokio::select! {
        () = said => Ok(()),
        reason = machine.wait() => {
            Err(SessionError::Lost { reason, console_tail: machine.console_tail() })
        }
        () = tokio::time::sleep(deadline) => Err(SessionError::BootTimeout {
            seconds: deadline.as_secs(),
            console_tail: machine.console_tail(),
        }),
    }
}

fn create_private(directory: &Path) -> Result<(), Cold> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(directory);
    made.map_err(file_error("create", directory))
}

#[cfg(test)]
mod tests;
