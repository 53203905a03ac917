//! Booting a finished image on an ordinary PC, or on the like of it for arm64: `vbuild boot IMAGE` for people,
//! [`Session`] for tests. The image is never written to; what the guest changes
//! goes to temporary files without names. QEMU is confined as for a build, and gets
//! these files and the image as descriptors.

mod argv;
mod files;
mod firmware;

pub use firmware::{Uefi, find_uefi};

use std::{io, os::unix::net::UnixStream, path::PathBuf, process::ExitStatus, time::Duration};

use confine::Confinement;
use machine::{BlockSize, DriveFormat, Layer, MachineArchitecture, MachineError, OnGuestConnect};
use microvm::NicProcess;
use tokio::{sync::watch, time::Instant};

use self::{argv::argv, files::open_files};
use crate::{
    Qemu, halt,
    handed::{Handed, Names},
    process::{Exit, Input, Launch, Process},
};

/// Console output that a session keeps: a verbose boot prints some 100 KiB.
const CONSOLE_MAX_BYTES: usize = 1 << 20;
/// Keys sent at once: half of a BIOS keyboard buffer.
const KEYS_AT_ONCE: usize = 8;
/// Delay between these: a BIOS polls the keyboard 18 times a second.
const TYPING_PAUSE: Duration = Duration::from_millis(120);
/// How often a session checks for expected output.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The firmware that starts the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which is part of QEMU.
    Bios,
    /// UEFI, see [`find_uefi`].
    Uefi(Uefi),
}

/// What to boot, and the machine.
#[derive(Debug, Clone)]
pub struct BootSpec {
    /// What it is made for: a PC, or a board of arm64, which starts by UEFI alone.
    pub architecture: MachineArchitecture,
    /// The image.
    pub image: PathBuf,
    /// Its format, never guessed.
    pub format: DriveFormat,
    /// Its backing files, nearest first. QEMU opens no others, whatever the image's header names.
    pub below: Vec<Layer>,
    /// The logical block size of the disk.
    pub block_size: BlockSize,
    /// The firmware.
    pub firmware: Firmware,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Number of processors.
    pub vcpus: u8,
    /// The network behind the card; `None` for a machine without a card.
    pub network: Option<Network>,
}

/// The network of a booted image.
#[derive(Clone)]
pub struct Network {
    /// Opens channels to the egress service.
    pub egress: OnGuestConnect,
    /// The egress port.
    pub port: u32,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("port", &self.port).finish_non_exhaustive()
    }
}

/// The user of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Console {
    /// A terminal, with QEMU's escape keys (Ctrl-A X ends it).
    Terminal,
    /// A program; bytes are passed unchanged.
    Pipe,
}

fn start_failed(source: io::Error) -> MachineError {
    MachineError::Io { action: "start QEMU".to_owned(), source }
}

/// A started QEMU, and its exit once it has ended.
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

/// Starts the process behind the network card, and returns QEMU's end of the connection.
async fn start_card(
    qemu: &Qemu,
    network: &Network,
) -> Result<(NicProcess, UnixStream), MachineError> {
    let (helper, Network { egress, port }) = (qemu.helper.clone(), network.clone());
    let failed = |source| MachineError::Io { action: "start the network card".into(), source };
    let start = move || {
        // The guest then has a card that gets no answers.
        let on_failure = |reason: String| tracing::error!("the network has ended: {reason}");
        NicProcess::start(&helper, port, egress, on_failure)
    };
    let started = tokio::task::spawn_blocking(start).await;
    started.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)
}

/// A booted image on the terminal of this process. QEMU owns the terminal meanwhile: Ctrl-A X ends
/// QEMU, Ctrl-C goes to the guest. Dropping it ends the guest.
#[derive(Debug)]
pub struct Terminal(Started);

impl Terminal {
    /// Boots the image.
    ///
    /// # Errors
    /// Fails if QEMU cannot be started.
    pub async fn start(qemu: &Qemu, spec: &BootSpec) -> Result<Self, MachineError> {
        start(qemu, spec, Console::Terminal).await.map(Self)
    }

    /// The confinement of each process that handles guest data.
    #[must_use]
    pub fn confinement(&self) -> Vec<Confinement> {
        self.0.confinement()
    }

    /// Waits until QEMU exits.
    ///
    /// # Errors
    /// Fails if the exit status is unknown.
    pub async fn wait(&mut self) -> Result<ExitStatus, MachineError> {
        let gone = || start_failed(io::Error::other("the thread that watches QEMU is gone"));
        let exit = self.0.ended.wait_for(Option::is_some).await.map_err(|_| gone())?.clone();
        exit.ok_or_else(gone)?.status.map_err(|cause| start_failed(io::Error::other(cause)))
    }
}

/// Why an expected text did not appear on the console.
#[derive(Debug, thiserror::Error)]
pub enum NotSeen {
    /// The time limit expired.
    #[error("`{needle}` did not appear on the console within {} s", limit.as_secs())]
    TimedOut {
        /// The expected text.
        needle: String,
        /// The time limit.
        limit: Duration,
    },
    /// QEMU exited first.
    #[error("`{needle}` did not appear on the console: {ending}")]
    Ended {
        /// The expected text.
        needle: String,
        /// How QEMU ended.
        ending: String,
    },
}

/// A booted image whose serial console is controlled by a program. Dropping it ends the guest.
#[derive(Debug)]
pub struct Session {
    started: Started,
    /// The position up to which the console was searched.
    looked: u64,
}

impl Session {
    /// Boots the image.
    ///
    /// # Errors
    /// Fails if QEMU cannot be started. Later errors of QEMU are reported by [`Session::expect`].
    pub async fn start(qemu: &Qemu, spec: &BootSpec) -> Result<Self, MachineError> {
        Ok(Self { started: start(qemu, spec, Console::Pipe).await?, looked: 0 })
    }

    /// The confinement of each process that handles guest data.
    #[must_use]
    pub fn confinement(&self) -> Vec<Confinement> {
        self.started.confinement()
    }

    /// A description of QEMU's exit, if it has ended.
    fn ending(&self) -> Option<String> {
        let exit = self.started.ended.borrow().clone();
        exit.map(|exit| self.started.names.with_file_names(&halt::ending(&exit)))
    }

    /// Waits until this text appears after the previous match.
    ///
    /// # Errors
    /// Fails if it does not.
    pub async fn expect(&mut self, needle: &str, limit: Duration) -> Result<(), NotSeen> {
        let deadline = Instant::now() + limit;
        loop {
            // Checked in this order, so that the final output is not missed.
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

    /// Types this text, without adding a line end, at a pace that firmware and boot loaders can
    /// handle: their buffers hold a dozen keys.
    ///
    /// # Errors
    /// Fails if the guest has ended.
    pub async fn send(&self, text: &str) -> io::Result<()> {
        for keys in text.as_bytes().chunks(KEYS_AT_ONCE) {
            self.started.process.send(keys)?;
            tokio::time::sleep(TYPING_PAUSE).await;
        }
        Ok(())
    }

    /// Waits until QEMU exits and describes its end; `None` after `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Option<String> {
        let ended = self.started.ended.wait_for(Option::is_some);
        tokio::time::timeout(limit, ended).await.ok()?.ok()?;
        self.ending()
    }

    /// The console output so far; at least its last mebibyte.
    #[must_use]
    pub fn console(&self) -> String {
        self.started.process.console.text()
    }
}
