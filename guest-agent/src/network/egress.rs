//! The agent's side of [`wire::egress`]: one vsock connection for each request.

use std::time::Duration;

use vsock::{VMADDR_CID_HOST, VsockStream};
use wire::EGRESS_PORT;
use wire::egress::{Message, Refusal, RefusalKind, Reply, Request};

/// How long to wait for an answer of the host. The host has its own, shorter limits; this one is
/// for a host that hangs.
const ANSWER_WAIT: Duration = Duration::from_secs(150);

/// Sends a request to the host. If it is granted, the returned stream is the connection.
pub(super) fn ask(request: &Request) -> Result<VsockStream, Refusal> {
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("the connection to the host failed: {error}");
        Refusal::new(RefusalKind::Unreachable, message)
    };
    let connect = || -> std::io::Result<VsockStream> {
        let stream = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, EGRESS_PORT)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        Ok(stream)
    };
    let mut stream = connect().map_err(|error| failed(&error))?;
    request.write_to(&mut stream).map_err(|error| failed(&error))?;
    let reply = Reply::read_from(&mut stream).map_err(|error| failed(&error))?;
    reply.granted()?;
    stream.set_read_timeout(None).map_err(|error| failed(&error))?;
    Ok(stream)
}
