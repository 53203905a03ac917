//! The host end of the conversation with a guest agent.
//!
//! [`boot`] starts a machine and gives a [`Session`] once the agent has said
//! hello; from then on a session looks like the interface of a small operating system:
//! [`Session::command`] is shaped like [`std::process::Command`], `files.rs` has files and
//! trees, and this file mounts, disks and the guest as a whole.
//!
//! A command that fails and a machine that is gone are different errors:
//! [`SessionError::Guest`] and [`SessionError::Lost`].
//!
//! Architecture invariant: only this crate speaks `wire`'s requests on the host.

mod boot;
mod command;
mod connection;
mod error;
mod files;
pub mod fuzzing;
mod inbox;
mod warm;

use std::sync::Arc;

pub use boot::{BootOptions, boot};
pub use command::{Child, ChildControl, ChildEvent, ChildInput, Command, Exited, Output};
pub use error::SessionError;
pub use files::TarDownload;
pub use warm::{WarmMachines, start};
pub use wire::{
    BlockDevice, Channel, CrashKind, ExitStatus, Failure, FileKind, FileStat, MountEntry,
    MountSpec, TerminalSize,
};

use connection::Connection;
use inbox::Incoming;
use machine::Machine;
use wire::{Reply, Request};

/// A running guest with an agent that answers.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) connection: Arc<Connection>,
    machine: Arc<dyn Machine>,
    hello: Arc<Hello>,
}

/// What the agent said in its hello.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The kernel's release.
    pub kernel: String,
    /// From the kernel's start to the hello, in microseconds of the guest.
    pub uptime_us: u64,
    /// From the call of [`boot`] to the hello, as the host saw it.
    pub boot: std::time::Duration,
    /// Whether the machine was restored from saved memory instead of booted.
    pub restored: bool,
}

impl Session {
    /// The agent's first words: its kernel and how long the boot took.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The machine that the guest runs in.
    #[must_use]
    pub fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when the agent says that it failed.
    pub(crate) async fn request(&self, request: &Request) -> Result<Reply, SessionError> {
        let mut stream = self.connection.open(request).await?;
        loop {
            match stream.next().await? {
                Incoming::Reply(Reply::Failed(failure)) => {
                    return Err(SessionError::Guest(failure));
                }
                Incoming::Reply(reply) if reply.is_final() => return Ok(reply),
                Incoming::Reply(_) | Incoming::Data(..) | Incoming::End => {}
            }
        }
    }

    /// Sends a request and waits until it is carried out.
    ///
    /// # Errors
    /// When the guest refuses or is gone.
    pub(crate) async fn perform(&self, request: &Request) -> Result<(), SessionError> {
        match self.request(request).await? {
            Reply::Done {} => Ok(()),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// The block devices of the guest.
    ///
    /// # Errors
    /// When the guest refuses or is gone.
    pub async fn block_devices(&self) -> Result<Vec<BlockDevice>, SessionError> {
        self.devices_by(&Request::BlockDevices {}).await
    }

    /// Reads a disk's partition table again; gives the disk and its partitions.
    ///
    /// # Errors
    /// When the guest refuses or is gone.
    pub async fn reread_partitions(&self, device: &str) -> Result<Vec<BlockDevice>, SessionError> {
        self.devices_by(&Request::BlockReread { device: device.to_owned() }).await
    }

    async fn devices_by(&self, request: &Request) -> Result<Vec<BlockDevice>, SessionError> {
        match self.request(request).await? {
            Reply::BlockDevices { devices } => Ok(devices),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// The mount table.
    ///
    /// # Errors
    /// When the guest refuses or is gone.
    pub async fn mounts(&self) -> Result<Vec<MountEntry>, SessionError> {
        match self.request(&Request::Mounts {}).await? {
            Reply::Mounts { mounts } => Ok(mounts),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// Mounts a filesystem or a bind.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when the guest refuses.
    pub async fn mount(&self, mount: MountSpec) -> Result<(), SessionError> {
        self.perform(&Request::Mount(mount)).await
    }

    /// Unmounts a mount point, and first everything that is mounted below it.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when one of them is not mounted or busy.
    pub async fn unmount(&self, path: &str) -> Result<(), SessionError> {
        self.perform(&Request::Unmount { path: path.to_owned(), lazy: false }).await
    }

    /// As [`Session::unmount`], but a busy mount is detached and ends when it is idle.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when one of them is not mounted.
    pub async fn unmount_lazily(&self, path: &str) -> Result<(), SessionError> {
        self.perform(&Request::Unmount { path: path.to_owned(), lazy: true }).await
    }

    /// Flushes every filesystem.
    ///
    /// # Errors
    /// When the guest is gone.
    pub async fn sync(&self) -> Result<(), SessionError> {
        self.perform(&Request::Sync {}).await
    }

    /// Freezes filesystems in the order given; on an error those already frozen are thawed.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when one of them cannot be frozen.
    pub async fn freeze(&self, mount_points: &[String]) -> Result<(), SessionError> {
        self.perform(&Request::Freeze { paths: mount_points.to_vec() }).await
    }

    /// Thaws filesystems.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when one of them cannot be thawed.
    pub async fn thaw(&self, mount_points: &[String]) -> Result<(), SessionError> {
        self.perform(&Request::Thaw { paths: mount_points.to_vec() }).await
    }

    /// Sets up the guest's network, whose only way out is the egress port of the host.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when it cannot be set up.
    pub async fn network_up(&self) -> Result<(), SessionError> {
        self.perform(&Request::NetworkUp {}).await
    }

    /// Gives the driver back to the first `count` disks that were parked when the machine was
    /// saved.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when the driver refuses one.
    pub(crate) async fn unpark(&self, count: usize) -> Result<(), SessionError> {
        self.perform(&Request::Unpark { count }).await
    }

    /// Ends the agent or its machine without any order, for tests of what follows.
    ///
    /// # Errors
    /// Whatever the end of the connection causes.
    pub async fn crash(&self, how: CrashKind) -> Result<(), SessionError> {
        self.perform(&Request::Crash { how }).await
    }

    /// Ends the guest: flushed and unmounted when `clean`, then waits for the
    /// machine's end.
    ///
    /// # Errors
    /// When the guest cannot unmount, or does not go down within a minute.
    pub async fn shutdown(self, clean: bool) -> Result<(), SessionError> {
        let asked = self.perform(&Request::Shutdown { clean }).await;
        let down = tokio::time::timeout(boot::SHUTDOWN_DEADLINE, self.machine.wait()).await;
        let tail = self.machine.console_tail();
        self.machine.kill().await;
        match (asked, down) {
            // The power-off may overtake the answer.
            (Ok(()) | Err(SessionError::Lost { .. }), Ok(machine::HaltReason::PowerOff)) => Ok(()),
            (_, Ok(reason)) => Err(SessionError::Lost { reason, console_tail: tail }),
            (Err(error), Err(_)) => Err(error),
            (Ok(()), Err(_)) => Err(SessionError::Lost {
                reason: machine::HaltReason::Lost("the guest did not power off".into()),
                console_tail: tail,
            }),
        }
    }
}
