//! The parent's side of the vsock device process.

use std::{
    fs::File,
    io,
    os::{
        fd::AsRawFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use confine::Confinement;
use machine::OnGuestConnect;

use crate::{
    backend::process,
    control::Role,
    device_process::{Device, DeviceProcess, Titles},
};

/// The names of the process.
const TITLES: Titles = Titles {
    confined: NAME,
    who: "the process of the vsock device",
    shown_as: "vbuild-vsock",
    argument: SOCKET_NAME,
};
/// The name of the process in reports about confinement.
pub(crate) const NAME: &str = "vsock device";
/// The name of the socket, which exists only for a moment.
const SOCKET_NAME: &str = "vhost-vsock";
/// The prefix of its counters' names; other counters stay zero.
const COUNTERS: &str = "vsock_";

/// A running vsock device in a confined process. It ends when the other VMM closes the connection,
/// or when this value is dropped.
#[derive(Debug)]
pub struct VsockProcess(DeviceProcess);

impl VsockProcess {
    /// Starts the device and returns the connection that the other VMM inherits. `program` must
    /// call [`crate::vmm_child`] if its first argument is [`crate::VMM_VERB`]. The socket exists in
    /// `run_dir` only for a moment. `on_failure` is called on a protocol error, or if the process
    /// dies. Blocks while the process starts, some milliseconds.
    ///
    /// # Errors
    /// Fails if the process does not start.
    pub fn start(
        program: &Path,
        run_dir: &Path,
        policy: OnGuestConnect,
        on_failure: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<(Self, UnixStream)> {
        let (listener, for_vmm) = rendezvous(run_dir)?;
        let device = Device {
            program: program.to_owned(),
            titles: TITLES,
            role: Role::Vsock,
            socket: listener.into(),
            policy,
        };
        Ok((Self(DeviceProcess::start(device, on_failure)?), for_vmm))
    }

    /// Opens a connection to a port of the guest. Returns at once: if the guest refuses or the
    /// device is gone, the stream ends.
    ///
    /// # Errors
    /// Fails if there are no descriptors left, if too many streams are open, or if the process is
    /// gone.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        process::connect(self.0.control(), self.0.counters(), port).map_err(io::Error::other)
    }

    /// The counters of the device, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = self.0.counters().snapshot();
        counters.retain(|(name, _)| name.starts_with(COUNTERS));
        counters
    }

    /// The confinement of the process.
    #[must_use]
    pub fn confinement(&self) -> Confinement {
        self.0.confinement()
    }

    /// The process id, while it lives.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.0.process()
    }
}

/// Creates a listener with one pending connection, and that connection's other end: the library
/// only accepts connections from a listener.
fn rendezvous(run_dir: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let directory = File::open(run_dir)?;
    // Socket addresses hold 108 bytes; a path through the descriptor is always short enough.
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    let connected = UnixStream::connect(&path);
    std::fs::remove_file(&path)?;
    Ok((listener, connected?))
}
