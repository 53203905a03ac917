//! The host side of the connection to a guest agent.
//!
//! [`boot`] starts a machine and returns a [`Session`] once the agent has sent its hello. The
//! methods of a session are like the interface of a small operating system: [`Session::command`] is
//! modelled on [`std::process::Command`], `files.rs` has files and directory trees, and this file
//! has mounts, disks and the guest as a whole.
//!
//! A request that fails in the guest and a machine that has ended are different errors:
//! [`SessionError::Guest`] and [`SessionError::Lost`].
//!
//! Architecture invariant: only this crate sends `wire`'s requests on the host.

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

/// The content of the agent's hello, and how the machine was started.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The release of the guest's kernel.
    pub kernel: String,
    /// The time from the kernel's start to the hello, in microseconds by the guest's clock.
    pub uptime_us: u64,
    /// The time from the start of the machine to the hello, by the host's clock. Earlier attempts
    /// to boot do not count.
    pub boot: std::time::Duration,
    /// Whether the machine was restored from saved memory instead of booted.
    pub restored: bool,
}

impl Session {
    /// Returns the content of the agent's hello, such as the kernel's release.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Returns the machine that the guest runs in.
    #[must_use]
    pub fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the request fails in the guest, and also fails if the
    /// guest is gone.
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
    /// Fails if the guest refuses the request or is gone.
    pub(crate) async fn perform(&self, request: &Request) -> Result<(), SessionError> {
        match self.request(request).await? {
            Reply::Done {} => Ok(()),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// Lists the block devices of the guest.
    ///
    /// # Errors
    /// Fails if the guest refuses the request or is gone.
    pub async fn block_devices(&self) -> Result<Vec<BlockDevice>, SessionError> {
        self.devices_by(&Request::BlockDevices {}).await
    }

    /// Makes the guest's kernel read a disk's partition table again. Returns the disk and its
    /// partitions.
    ///
    /// # Errors
    /// Fails if the guest refuses the request or is gone.
    pub async fn reread_partitions(&self, device: &str) -> Result<Vec<BlockDevice>, SessionError> {
        self.devices_by(&Request::BlockReread { device: device.to_owned() }).await
    }

    async fn devices_by(&self, request: &Request) -> Result<Vec<BlockDevice>, SessionError> {
        match self.request(request).await? {
            Reply::BlockDevices { devices } => Ok(devices),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// Reads the guest's mount table.
    ///
    /// # Errors
    /// Fails if the guest refuses the request or is gone.
    pub async fn mounts(&self) -> Result<Vec<MountEntry>, SessionError> {
        match self.request(&Request::Mounts {}).await? {
            Reply::Mounts { mounts } => Ok(mounts),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// Mounts a filesystem or makes a bind mount. A missing mount point is created.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the guest refuses.
    pub async fn mount(&self, mount: MountSpec) -> Result<(), SessionError> {
        self.perform(&Request::Mount(mount)).await
    }

    /// Unmounts everything that is mounted below a mount point, and then the mount point itself.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if nothing is mounted there, or if one of the mounts is
    /// busy.
    pub async fn unmount(&self, path: &str) -> Result<(), SessionError> {
        self.perform(&Request::Unmount { path: path.to_owned(), lazy: false }).await
    }

    /// Like [`Session::unmount`], but detaches busy mounts, which end once they are no longer in
    /// use.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if nothing is mounted there.
    pub async fn unmount_lazily(&self, path: &str) -> Result<(), SessionError> {
        self.perform(&Request::Unmount { path: path.to_owned(), lazy: true }).await
    }

    /// Flushes every filesystem of the guest, as sync(2) does.
    ///
    /// # Errors
    /// Fails if the guest is gone.
    pub async fn sync(&self) -> Result<(), SessionError> {
        self.perform(&Request::Sync {}).await
    }

    /// Freezes filesystems in the given order. If one of them cannot be frozen, thaws those that
    /// were already frozen.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if one of them cannot be frozen.
    pub async fn freeze(&self, mount_points: &[String]) -> Result<(), SessionError> {
        self.perform(&Request::Freeze { paths: mount_points.to_vec() }).await
    }

    /// Thaws filesystems.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if one of them cannot be thawed.
    pub async fn thaw(&self, mount_points: &[String]) -> Result<(), SessionError> {
        self.perform(&Request::Thaw { paths: mount_points.to_vec() }).await
    }

    /// Sets up the guest's network, whose only connection to the outside is the egress port of the
    /// host.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the network cannot be set up.
    pub async fn network_up(&self) -> Result<(), SessionError> {
        self.perform(&Request::NetworkUp {}).await
    }

    /// Binds the first `count` disks to their driver again. They were parked, that is unbound, when
    /// the machine was saved.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the driver refuses one of them.
    pub(crate) async fn unpark(&self, count: usize) -> Result<(), SessionError> {
        self.perform(&Request::Unpark { count }).await
    }

    /// Makes the agent or its machine end abruptly, for tests of how the host reacts.
    ///
    /// # Errors
    /// Returns the error that the end of the connection causes.
    pub async fn crash(&self, how: CrashKind) -> Result<(), SessionError> {
        self.perform(&Request::Crash { how }).await
    }

    /// Shuts the guest down and waits for the end of its machine. If `clean`, the guest first
    /// unmounts and flushes its filesystems.
    ///
    /// # Errors
    /// Fails if the guest cannot unmount, if the machine ends in another way than by a power-off,
    /// or if it does not end within two minutes.
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
