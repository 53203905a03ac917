//! The host end of the conversation with a guest agent.
//!
//! [`boot`] starts a machine and gives a [`Session`] once the agent has said
//! hello; from then on a session looks like a small operating system interface:
//! [`Session::spawn`] is shaped like `std::process::Command`, files and trees go
//! in and out as streams, and the rest are single requests.
//!
//! A command that fails and a machine that is gone are different errors:
//! [`SessionError::Guest`] and [`SessionError::Lost`].
//!
//! Architecture invariant: only this crate speaks `wire`'s frames on the host.

mod boot;
mod command;
mod connection;
mod error;
mod files;
pub mod fuzzing;
mod inbox;

use std::sync::Arc;

pub use boot::{BootOptions, boot};
pub use command::{Child, ChildControl, ChildEvent, ChildInput, Exited, Output};
pub use error::SessionError;
pub use files::TarDownload;
pub use inbox::Incoming;

use connection::Connection;
use machine::Machine;
use wire::{BlockDevice, FileOperation, MountEntry, MountSpec, Reply, Request};

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
}

impl Session {
    /// What the agent said in its hello.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The machine below.
    #[must_use]
    pub fn machine(&self) -> &Arc<dyn Machine> {
        &self.machine
    }

    /// One request with one answer.
    ///
    /// # Errors
    /// [`SessionError::Guest`] when the agent says that it failed.
    pub async fn request(&self, request: &Request) -> Result<Reply, SessionError> {
        let mut stream = self.connection.open(request).await?;
        loop {
            match stream.next().await? {
                Incoming::Reply(Reply::Failed(failure)) => {
                    return Err(SessionError::Guest(failure));
                }
                Incoming::Reply(reply) if reply.is_final() => return Ok(reply),
                _ => {}
            }
        }
    }

    /// A request whose answer is only that it is done.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn perform(&self, request: &Request) -> Result<(), SessionError> {
        match self.request(request).await? {
            Reply::Done {} => Ok(()),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// The block devices of the guest.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn block_devices(&self) -> Result<Vec<BlockDevice>, SessionError> {
        self.devices_by(&Request::BlockDevices {}).await
    }

    /// Reads a disk's partition table again; gives the disk and its partitions.
    ///
    /// # Errors
    /// As [`Session::request`].
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
    /// As [`Session::request`].
    pub async fn mounts(&self) -> Result<Vec<MountEntry>, SessionError> {
        match self.request(&Request::Mounts {}).await? {
            Reply::Mounts { mounts } => Ok(mounts),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// Mounts.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn mount(&self, mount: MountSpec) -> Result<(), SessionError> {
        self.perform(&Request::Mount(mount)).await
    }

    /// Unmounts a tree of mounts.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn unmount(&self, path: &str, lazy: bool) -> Result<(), SessionError> {
        self.perform(&Request::Unmount { path: path.to_owned(), recursive: true, lazy }).await
    }

    /// A small operation on the file tree that answers only done.
    ///
    /// # Errors
    /// As [`Session::request`].
    pub async fn file(&self, operation: FileOperation) -> Result<(), SessionError> {
        self.perform(&Request::File(operation)).await
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
