//! Booting a finished image on an ordinary PC: `vbuild boot IMAGE` for people,
//! [`Session`] for tests. The image is never written to; what the guest changes
//! goes to temporary files without names. QEMU is confined as for a build, and gets
//! these files and the image as descriptors.

mod argv;
mod files;
mod firmware;

pub use firmware::{Uefi, find_uefi};

use std::{io, os::unix::net::UnixStream, path::PathBuf, process::ExitStatus, time::Duration};

use confine::Confinement;
use machine::{BlockSize, DriveFormat, Layer, MachineError, OnGuestConnect};
use microvm::NicProcess;
use tokio::{sync::watch, time::Instant};

use self::{argv::argv, files::open_files};
use crate::{
    Qemu, halt,
    handed::{Handed, Names},
    process::{Exit, Input, Launch, Process},
};

/// The console text that a session keeps: a verbose boot prints some 100 KiB.
const CONSOLE_MAX_BYTES: usize = 1 << 20;
/// Keys typed at once: half of what the keyboard buffer of a BIOS holds.
const KEYS_AT_ONCE: usize = 8;
/// How long a guest has for them: a BIOS looks 18 times a second.
const TYPING_PAUSE: Duration = Duration::from_millis(120);
/// How often a session looks for what it waits for.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The firmware that starts the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which is part of QEMU.
    Bios,
    /// UEFI, see [`find_uefi`].
    Uefi(Uefi),
}

/// What is to be booted, and on what.
#[derive(Debug, Clone)]
pub struct BootSpec {
    /// The image.
    pub image: PathBuf,
    /// Its format, never guessed.
    pub format: DriveFormat,
    /// The files that it stands on, nearest first. QEMU opens no other, whatever the
    /// image's header names.
    pub below: Vec<Layer>,
    /// The logical block size of the disk.
    pub block_size: BlockSize,
    /// The firmware.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of processors.
    pub vcpus: u8,
    /// What the network card leads to; without it there is none.
    pub network: Option<Network>,
}

/// The way out of a booted image.
#[derive(Clone)]
pub struct Network {
    /// Gives streams to the network's door.
    pub door: OnGuestConnect,
    /// The port for which it does.
    pub port: u32,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("port", &self.port).finish_non_exhaustive()
    }
}

/// Whose console it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Console {
    /// A person's, with QEMU's keys (Ctrl-A X ends it).
    Terminal,
    /// A program's: bytes as they are.
    Pipe,
}

fn start_failed(source: io::Error) -> MachineError {
    MachineError::Io { action: "start QEMU".to_owned(), source }
}

/// A started QEMU, and how it will have ended.
#[derive(Debug)]
struct Started {
    process: Process,
    names: Names,
    ended: watch::Receiver<Option<Exit>>,
    card: Option<NicProcess>,
}

impl Started {
    fn confinement(&self) -> Vec<Confinement> {
        let card = self.card.as_ref().map(NicProcess::confinement);
        self.process.confinement.iter().cloned().chain(card).collect()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.process.kill();
        self.process.wait_gone();
    }
}

async fn start(qemu: &Qemu, spec: &BootSpec, console: Console) -> Result<Started, MachineError> {
    let mut handed = Handed::default();
    let files = open_files(spec, &mut handed)?;
    let card = match &spec.network {
        Some(network) => Some(start_card(qemu, network).await?),
        None => None,
    };
    let (card, frames) = card.map_or((None, None), |(card, frames)| (Some(card), Some(frames)));
    let number = frames.map(|frames| handed.give(frames.into()));
    let mut args = argv(spec, qemu.accel, console, &files, number);
    handed.arguments(&mut args);
    let names = handed.names.clone();
    let paths = qemu.paths().await?;
    tracing::debug!(program = %qemu.program.display(), ?args, "starting QEMU");
    let launch = Launch {
        helper: qemu.helper.clone(),
        program: qemu.program.clone(),
        args: args.0,
        descriptors: handed.into_descriptors(),
        paths,
        file_bytes: files.file_bytes,
        input: match console {
            Console::Terminal => Input::Terminal,
            Console::Pipe => Input::Pipe,
        },
        console_max_bytes: CONSOLE_MAX_BYTES,
    };
    let (tell, ended) = watch::channel(None);
    let on_exit = move |exit: Exit| {
        let _ = tell.send(Some(exit));
    };
    let process = Process::start(launch, on_exit).await.map_err(start_failed)?;
    Ok(Started { process, names, ended, card })
}

/// Starts the other end of the network card, and gives QEMU's end.
async fn start_card(
    qemu: &Qemu,
    network: &Network,
) -> Result<(NicProcess, UnixStream), MachineError> {
    let (helper, Network { door, port }) = (qemu.helper.clone(), network.clone());
    let failed = |source| MachineError::Io { action: "start the network card".into(), source };
    let start = move || {
        // The guest then has a card on which nothing answers.
        let on_failure = |reason: String| tracing::error!("the network has ended: {reason}");
        NicProcess::start(&helper, port, door, on_failure)
    };
    let started = tokio::task::spawn_blocking(start).await;
    started.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
}

/// A booted image on the terminal of this process. The terminal is QEMU's meanwhile:
/// Ctrl-A X ends it, Ctrl-C goes to the guest. Dropping it ends the guest.
#[derive(Debug)]
pub struct Terminal(Started);

impl Terminal {
    /// Boots the image.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub async fn start(qemu: &Qemu, spec: &BootSpec) -> Result<Self, MachineError> {
        start(qemu, spec, Console::Terminal).await.map(Self)
    }

    /// What confines the processes that handle what the guest writes.
    #[must_use]
    pub fn confinement(&self) -> Vec<Confinement> {
        self.0.confinement()
    }

    /// Waits for the end of QEMU.
    ///
    /// # Errors
    /// When nobody knows how it ended.
    pub async fn wait(&mut self) -> Result<ExitStatus, MachineError> {
        let gone = || start_failed(io::Error::other("the thread that watches QEMU is gone"));
        let exit = self.0.ended.wait_for(Option::is_some).await.map_err(|_| gone())?.clone();
        exit.ok_or_else(gone)?.status.map_err(|cause| start_failed(io::Error::other(cause)))
    }
}

/// Why a text did not appear on the console.
#[derive(Debug, thiserror::Error)]
pub enum NotSeen {
    /// The time is over.
    #[error("`{needle}` did not appear on the console within {} s", limit.as_secs())]
    TimedOut {
        /// What was waited for.
        needle: String,
        /// How long.
        limit: Duration,
    },
    /// QEMU has ended before.
    #[error("`{needle}` did not appear on the console: {ending}")]
    Ended {
        /// What was waited for.
        needle: String,
        /// How QEMU ended.
        ending: String,
    },
}

/// A booted image with its serial console in the hands of a program. Dropping
/// it ends the guest.
#[derive(Debug)]
pub struct Session {
    started: Started,
    /// How far the console has been looked through.
    looked: u64,
}

impl Session {
    /// Boots the image.
    ///
    /// # Errors
    /// When QEMU cannot be started. What it complains about afterwards shows in
    /// [`Session::expect`].
    pub async fn start(qemu: &Qemu, spec: &BootSpec) -> Result<Self, MachineError> {
        Ok(Self { started: start(qemu, spec, Console::Pipe).await?, looked: 0 })
    }

    /// What confines the processes that handle what the guest writes.
    #[must_use]
    pub fn confinement(&self) -> Vec<Confinement> {
        self.started.confinement()
    }

    /// How QEMU ended, in words.
    fn ending(&self) -> Option<String> {
        let exit = self.started.ended.borrow().clone();
        exit.map(|exit| self.started.names.in_words(&halt::ending(&exit)))
    }

    /// Waits until this text appears behind what was found the last time.
    ///
    /// # Errors
    /// When it does not.
    pub async fn expect(&mut self, needle: &str, limit: Duration) -> Result<(), NotSeen> {
        let deadline = Instant::now() + limit;
        loop {
            // Looked at in this order, so that the last words are not missed.
            let ending = self.ending();
            if let Some(end) = self.started.process.console.find(needle.as_bytes(), self.looked) {
                self.looked = end;
                return Ok(());
            }
            let needle = needle.to_owned();
            if let Some(ending) = ending {
                return Err(NotSeen::Ended { needle, ending });
            }
            if Instant::now() >= deadline {
                return Err(NotSeen::TimedOut { needle, limit });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Types this text, to which a line end is not added. It is typed at a pace that
    /// firmware and boot loaders take: their buffers hold a dozen keys.
    ///
    /// # Errors
    /// When the guest has ended.
    pub async fn send(&self, text: &str) -> io::Result<()> {
        for keys in text.as_bytes().chunks(KEYS_AT_ONCE) {
            self.started.process.send(keys)?;
            tokio::time::sleep(TYPING_PAUSE).await;
        }
        Ok(())
    }

    /// Waits for the end of QEMU and says how it came, or `None` after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Option<String> {
        let ended = self.started.ended.wait_for(Option::is_some);
        tokio::time::timeout(limit, ended).await.ok()?.ok()?;
        self.ending()
    }

    /// The console so far, its last mebibyte at least.
    #[must_use]
    pub fn console(&self) -> String {
        self.started.process.console.text()
    }
}
