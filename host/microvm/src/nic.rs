//! The network behind the card of a machine run by QEMU, in its own process.
//!
//! ```text
//!  vbuild: NicProcess                child                       QEMU
//!    │── Start{nic}, descriptors ─────►│ confines itself
//!    │◄─────────────────────── Started │◄── frames, a stream socket ──►│
//!    │◄─ policy socket, as for a machine: a channel to the egress service
//! ```
//!
//! Frames are guest data, so the rules of the vsock device apply: no path, no socket that was not
//! passed in, a list of system calls. The process runs the crate `netstack`.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::ExitCode,
};

use confine::Confinement;
use machine::OnGuestConnect;

use crate::{
    child_error::{ChildError, io_error},
    connections::ask_parent,
    control::{Channel, FromVmm, Role},
    device_process::{Device, DeviceProcess, Titles},
    sandbox::{self, Confined, Kind, Sandbox},
};

/// The name of the process in reports about confinement.
pub(crate) const NAME: &str = "network card";
const TITLES: Titles = Titles {
    confined: NAME,
    who: "the process of the network card",
    shown_as: "vbuild-nic",
    argument: "nic",
};
/// The process writes no file.
const FILE_BYTES_MAX: u64 = 0;

/// The network behind a card, in a confined process. It ends when the VMM closes the connection, or
/// when this value is dropped.
#[derive(Debug)]
pub struct NicProcess(DeviceProcess);

impl NicProcess {
    /// Starts the process and returns the connection that the VMM inherits, on which each frame is
    /// prefixed by its length, 32 bits in network byte order. `program` must call
    /// [`crate::vmm_child`] if its first argument is [`crate::VMM_VERB`]. `policy` opens a channel
    /// to the egress service when asked for `egress_port`. `on_failure` is called if the process
    /// dies or the card sends invalid data. Blocks while the process starts, some milliseconds.
    ///
    /// # Errors
    /// Fails if the process does not start.
    pub fn start(
        program: &Path,
        egress_port: u32,
        policy: OnGuestConnect,
        on_failure: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<(Self, UnixStream)> {
        let (ours, for_vmm) = UnixStream::pair()?;
        let device = Device {
            program: program.to_owned(),
            titles: TITLES,
            role: Role::Nic { egress_port },
            socket: ours.into(),
            policy,
        };
        Ok((Self(DeviceProcess::start(device, on_failure)?), for_vmm))
    }

    /// The confinement of the process.
    #[must_use]
    pub fn confinement(&self) -> Confinement {
        self.0.confinement()
    }
}

/// Confines this process and serves the card until the VMM closes the connection.
pub(crate) fn serve(
    mode: Sandbox,
    egress_port: u32,
    fds: Vec<OwnedFd>,
    control: &Channel,
) -> Result<ExitCode, ChildError> {
    let Ok([_counters, policy, frames]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(ChildError::Message("three files belong to it".to_owned()));
    };
    let Confined { lists, landlock } = sandbox::confine_process(mode, FILE_BYTES_MAX)?;
    let ask = ask_parent(Channel::from_fd(policy))?;
    // A hasher has random keys.
    let seed = RandomState::new().build_hasher().finish();
    lists.apply(Kind::Nic);
    if control.send(&FromVmm::Started { landlock }, &[]).is_err() {
        // The parent is gone.
        return Ok(ExitCode::SUCCESS);
    }
    netstack::serve(UnixStream::from(frames), move || ask(egress_port), seed)
        .map_err(io_error("serve the network card"))?;
    Ok(ExitCode::SUCCESS)
}
