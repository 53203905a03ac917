//! The other end of the network card of a machine that QEMU runs, in a process of its own.
//!
//! ```text
//!  vbuild: NicProcess                child                       QEMU
//!    │── Start{nic}, descriptors ─────►│ confines itself
//!    │◄─────────────────────── Started │◄── frames, a stream socket ──►│
//!    │◄─ policy socket, as for a machine: a stream to the network's door
//! ```
//!
//! Frames are the guest's, so the rules of the vsock device hold: no path, no socket that
//! was not given, a list of system calls. The crate `netstack` is what it runs.

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
    child::{ChildError, ask_parent, io_error},
    control::{Channel, FromVmm, Role, Sandbox},
    device_process::{Device, DeviceProcess, Titles},
    sandbox::{self, Confined, Kind},
};

/// What the process is called where people read what confines it.
pub(crate) const NAME: &str = "network card";
const TITLES: Titles = Titles {
    confined: NAME,
    who: "the process of the network card",
    shown_as: "vbuild-nic",
    argument: "nic",
};
/// The process writes to no file.
const FILE_BYTES_MAX: u64 = 0;

/// The other end of a network card in a confined process. It ends with the VMM's end of
/// the connection or with this value, whichever comes first.
#[derive(Debug)]
pub struct NicProcess(DeviceProcess);

impl NicProcess {
    /// Starts the process and returns the connection that the VMM is to inherit, over
    /// which each frame travels behind its length, 32 bits in network order. `program`
    /// calls [`crate::vmm_child`] when its first argument is [`crate::VMM_VERB`].
    /// `policy` gives streams to the network's door when it is asked for `door_port`.
    /// `on_failure` is called when the process dies or is sent what no card sends. Blocks
    /// for the start of a process, some milliseconds.
    ///
    /// # Errors
    /// When the process does not start.
    pub fn start(
        program: &Path,
        door_port: u32,
        policy: OnGuestConnect,
        on_failure: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<(Self, UnixStream)> {
        let (ours, for_vmm) = UnixStream::pair()?;
        let device = Device {
            program: program.to_owned(),
            titles: TITLES,
            role: Role::Nic { door_port },
            socket: ours.into(),
            policy,
        };
        Ok((Self(DeviceProcess::start(device, on_failure)?), for_vmm))
    }

    /// What confines the process.
    #[must_use]
    pub fn confinement(&self) -> Confinement {
        self.0.confinement()
    }
}

/// Confines this process and serves the card until the VMM has gone.
pub(crate) fn serve(
    mode: Sandbox,
    door_port: u32,
    fds: Vec<OwnedFd>,
    control: &Channel,
) -> Result<ExitCode, ChildError> {
    let Ok([_counters, policy, frames]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(ChildError::Message("three files belong to it".to_owned()));
    };
    let Confined { lists, landlock } = sandbox::confine_process(mode, FILE_BYTES_MAX)?;
    let ask = ask_parent(Channel::from_fd(policy))?;
    // The keys of a hasher are random.
    let seed = RandomState::new().build_hasher().finish();
    lists.apply(Kind::Nic);
    if control.send(&FromVmm::Started { landlock }, &[]).is_err() {
        // The parent is gone.
        return Ok(ExitCode::SUCCESS);
    }
    netstack::serve(UnixStream::from(frames), move || ask(door_port), seed)
        .map_err(io_error("serve the network card"))?;
    Ok(ExitCode::SUCCESS)
}
