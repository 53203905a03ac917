//! Relays bytes in both directions; each direction ends independently.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::http::Observed;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Buffer size of one direction. With the maximum number of connections, all buffers together have
/// 16 MiB.
const BUFFER_BYTES: usize = 32 << 10;

/// How often an idle connection is checked per idle limit.
const IDLE_CHECKS: u32 = 4;

/// Counters of relayed bytes.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pub(crate) up: AtomicU64,
    pub(crate) down: AtomicU64,
}

impl Flow {
    fn total(&self) -> u64 {
        self.up.load(Ordering::Relaxed) + self.down.load(Ordering::Relaxed)
    }
}

/// Copies until both directions have ended, one of them has failed, or nothing was transferred for
/// `idle`.
pub(crate) async fn relay(
    guest: impl AsyncRead + AsyncWrite + Unpin,
    remote: impl AsyncRead + AsyncWrite + Unpin,
    flow: &Flow,
    idle: Duration,
    observed: Option<&Observed>,
) -> io::Result<()> {
    let (mut guest_in, mut guest_out) = tokio::io::split(guest);
    let (mut remote_in, mut remote_out) = tokio::io::split(remote);
    let see_up = |bytes: &[u8]| observed.into_iter().for_each(|o| o.up(bytes));
    let see_down = |bytes: &[u8]| observed.into_iter().for_each(|o| o.down(bytes));
    let up = copy(&mut guest_in, &mut remote_out, &flow.up, see_up);
    let down = copy(&mut remote_in, &mut guest_out, &flow.down, see_down);
    tokio::select! {
        done = async { tokio::try_join!(up, down) } => done.map(|_| ()),
        () = until_idle(flow, idle) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing moved for {} s", idle.as_secs()),
        )),
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
    see: impl Fn(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return match to.shutdown().await {
                // The peer may have closed both directions meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
                done => done,
            };
        }
        see(&buffer[..length]);
        to.write_all(&buffer[..length]).await?;
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

async fn until_idle(flow: &Flow, idle: Duration) {
    let mut last = flow.total();
    let mut quiet = 0;
    while quiet < IDLE_CHECKS {
        tokio::time::sleep(idle / IDLE_CHECKS).await;
        let now = flow.total();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn each_direction_ends_on_its_own() {
        let (mut guest, near) = UnixStream::pair().unwrap();
        let (far, mut remote) = UnixStream::pair().unwrap();
        let flow = Flow::default();
        let session = async {
            guest.write_all(b"question").await.unwrap();
            guest.shutdown().await.unwrap();
            let mut question = String::new();
            remote.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, "question");
            // The guest has closed its direction; the response still arrives.
            remote.write_all(&vec![7; 100_000]).await.unwrap();
            drop(remote);
            let mut answer = Vec::new();
            guest.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer.len(), 100_000);
        };
        let idle = Duration::from_secs(60);
        let (done, ()) = tokio::join!(relay(near, far, &flow, idle, None), session);
        done.unwrap();
        assert_eq!((flow.up.into_inner(), flow.down.into_inner()), (8, 100_000));
    }

    #[tokio::test]
    async fn a_silent_connection_ends() {
        let (_guest, near) = UnixStream::pair().unwrap();
        let (far, _remote) = UnixStream::pair().unwrap();
        let flow = Flow::default();
        let error = relay(near, far, &flow, Duration::from_secs(1), None).await.unwrap_err();
        assert_eq!(error.to_string(), "nothing moved for 1 s");
    }
}
