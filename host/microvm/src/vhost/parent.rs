//! The parent's side of the device's process.

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

/// What the process is called.
const TITLES: Titles = Titles {
    confined: NAME,
    who: "the process of the vsock device",
    shown_as: "vbuild-vsock",
    argument: SOCKET_NAME,
};
/// What it is called where people read what confines it.
pub(crate) const NAME: &str = "vsock device";
/// The name of the socket for the moment in which it exists.
const SOCKET_NAME: &str = "vhost-vsock";
/// How the names of its counters begin; the others stay zero.
const COUNTERS: &str = "vsock_";

/// A running vsock device in a confined process. It ends with the other VMM's
/// end of the connection or with this value, whichever comes first.
#[derive(Debug)]
pub struct VsockProcess(DeviceProcess);

impl VsockProcess {
    /// Starts the device and returns the connection that the other VMM is to
    /// inherit. `program` calls [`crate::vmm_child`] when its first argument is
    /// [`crate::VMM_VERB`]. The socket exists in `run_dir` only for a moment.
    /// `on_failure` is called when the two sides do not understand each other, or
    /// the process dies. Blocks for the start of a process, some milliseconds.
    ///
    /// # Errors
    /// When the process does not start.
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

    /// Opens a connection to a port of the guest. Returns at once: a guest that
    /// refuses, and a device that is gone, show as the end of the stream.
    ///
    /// # Errors
    /// When descriptors ran out, too many streams are open, or the process is gone.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        process::connect(self.0.control(), self.0.counters(), port).map_err(io::Error::other)
    }

    /// What the device has counted, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = self.0.counters().snapshot();
        counters.retain(|(name, _)| name.starts_with(COUNTERS));
        counters
    }

    /// What confines the process.
    #[must_use]
    pub fn confinement(&self) -> Confinement {
        self.0.confinement()
    }

    /// The process, while it lives.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.0.process()
    }
}

/// A listener with one connection waiting, and that connection's other end: the
/// library accepts connections but does not take them ready-made.
fn rendezvous(run_dir: &Path) -> io::Result<(UnixListener, UnixStream)> {
    let directory = File::open(run_dir)?;
    // Socket addresses hold 108 bytes; through the descriptor, a path of any
    // length fits.
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    let connected = UnixStream::connect(&path);
    std::fs::remove_file(&path)?;
    Ok((listener, connected?))
}
