//! Connections between host and guest, as the process that holds the vsock device makes them: those
//! of the guest are the parent's decision, those of the parent come as streams.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::Arc,
    time::Duration,
};

use vsock_mux::Connector;

use crate::{
    child_error::{ChildError, io_error},
    control::{AskConnect, Channel, Decision},
};

/// Time limit for the parent's decision about a connection, after which the vsock thread refuses
/// it; the parent answers at once, unless it is stopped.
const DECISION_TIMEOUT: Duration = Duration::from_secs(5);
/// The connection policy, which asks the parent about each connection that the guest opens.
pub(crate) fn ask_parent(policy: Channel) -> Result<vsock_mux::OnGuestConnect, ChildError> {
    policy.set_timeout(Some(DECISION_TIMEOUT)).map_err(io_error("set up the policy socket"))?;
    Ok(Arc::new(move |port| {
        policy.send(&AskConnect { port }, &[]).ok()?;
        match policy.receive::<Decision>() {
            Ok(Some((Decision { accept: true }, mut fds))) => fds.pop().map(UnixStream::from),
            _ => None,
        }
    }))
}

/// Connects a stream of the parent to a port of the guest.
pub(crate) fn connect(connector: &Connector, port: u32, mut fds: Vec<OwnedFd>) {
    if let Some(stream) = fds.pop() {
        // A refused stream is closed, which the other end detects.
        let _ = connector.adopt(port, UnixStream::from(stream));
    }
}
