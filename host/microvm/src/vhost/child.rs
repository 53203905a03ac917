//! The process of the vhost-user vsock device.

use std::{
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::{self, ExitCode},
    sync::Arc,
    thread,
};

use confine::Landlock;
use vsock_mux::{Connector, GUEST_CID, Mux};

use super::device;
use crate::{
    child_error::{ChildError, io_error},
    connections::{ask_parent, connect},
    control::{Channel, FromVmm, ToVmm},
    counters::Counters,
    sandbox::{self, Confined, Kind, Sandbox},
};

/// The device writes no file: its page of counters and the guest's memory are mapped.
const FILE_BYTES_MAX: u64 = 0;

/// Starts the device and serves it until the parent or the other VMM is gone.
pub(crate) fn serve(
    mode: Sandbox,
    fds: Vec<OwnedFd>,
    control: Channel,
) -> Result<ExitCode, (ChildError, Channel)> {
    let control = Arc::new(control);
    match start(mode, fds, &control) {
        Ok((connector, landlock)) => Ok(listen(&control, &connector, landlock)),
        Err(error) => match Arc::try_unwrap(control) {
            Ok(control) => Err((error, control)),
            // The device already runs, and ends with the process.
            Err(_) => Ok(ExitCode::FAILURE),
        },
    }
}

fn start(
    mode: Sandbox,
    fds: Vec<OwnedFd>,
    control: &Arc<Channel>,
) -> Result<(Connector, Landlock), ChildError> {
    let Ok([counters, policy, listener]) = <[OwnedFd; 3]>::try_from(fds) else {
        return Err(ChildError::Message("three files belong to it".to_owned()));
    };
    let counters = Arc::new(Counters::open(File::from(counters))?);
    let Confined { lists, landlock } = sandbox::confine_process(mode, FILE_BYTES_MAX)?;
    let (mux, connector) = Mux::new(GUEST_CID, ask_parent(Channel::from_fd(policy))?)?;
    let listener = UnixListener::from(listener);
    let daemon = device::start((mux, connector.clone()), counters, listener)
        .map_err(io_error("start the vsock device"))?;
    let teller = Arc::clone(control);
    thread::Builder::new()
        .name("vhost-keeper".to_owned())
        .spawn(move || {
            let failed = device::wait(daemon).err();
            if let Some(reason) = &failed {
                // If the parent is gone, the failure cannot be reported.
                let _ = teller.send(&FromVmm::Failed { reason: reason.clone() }, &[]);
            }
            process::exit(i32::from(failed.is_some()));
        })
        .map_err(io_error("start a thread of the vsock device"))?;
    // The library starts its own threads, so all of them get one list, after the last was started.
    lists.apply_to_all(Kind::Vhost);
    Ok((connector, landlock))
}

fn listen(control: &Channel, connector: &Connector, landlock: Landlock) -> ExitCode {
    if control.send(&FromVmm::Started { landlock }, &[]).is_err() {
        return ExitCode::SUCCESS;
    }
    // Otherwise the parent is gone or sends invalid messages: nothing else can be done.
    while let Ok(Some((ToVmm::Connect { port }, fds))) = control.receive::<ToVmm>() {
        connect(connector, port, fds);
    }
    ExitCode::SUCCESS
}
