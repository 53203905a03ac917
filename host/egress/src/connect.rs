//! Connects to one of several addresses.
//!
//! Attempts start one after another: the next one starts if the previous one fails or takes longer
//! than a moment, with alternating address families (RFC 8305 without the sorting). The first
//! success wins. All addresses have been checked by the policy, and the connection goes to exactly
//! these: a name is not resolved a second time.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;

use wire::egress::{Refusal, RefusalKind};

/// Delay before the next attempt starts in parallel: the value recommended by RFC 8305.
const HEAD_START: Duration = Duration::from_millis(250);

/// Whether both ends of a connection are on this host: the kernel chooses the destination address
/// as the source only if it is local, however it was configured.
pub(crate) fn is_to_this_host(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => local.ip().to_canonical() == peer.ip().to_canonical(),
        // A broken connection leads nowhere.
        _ => false,
    }
}

/// Connects to one of the addresses within `limit`.
pub(crate) async fn connect(
    addresses: &[IpAddr],
    port: u16,
    limit: Duration,
) -> Result<TcpStream, Refusal> {
    match tokio::time::timeout(limit, race(addresses, port)).await {
        Ok(Ok(stream)) => {
            // Disables Nagle's algorithm: small writes (requests, TLS records) must not wait.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err((address, error))) => Err(refused(address, &error)),
        Err(_) => {
            let (count, seconds) = (addresses.len(), limit.as_secs());
            let message = format!("none of {count} addresses answered within {seconds} s");
            Err(Refusal::new(RefusalKind::Timeout, message))
        }
    }
}

async fn race(addresses: &[IpAddr], port: u16) -> Result<TcpStream, (SocketAddr, io::Error)> {
    let mut waiting = in_turn(addresses).into_iter().map(|ip| SocketAddr::new(ip, port));
    let mut running = FuturesUnordered::new();
    let attempt = |address| async move {
        TcpStream::connect(address).await.map_err(|error| (address, error))
    };
    let unreachable = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port);
    let mut last = (unreachable, io::Error::from(io::ErrorKind::AddrNotAvailable));
    loop {
        let more = waiting.next().map(|address| running.push(attempt(address))).is_some();
        if running.is_empty() {
            return Err(last);
        }
        let head_start = async {
            if more { tokio::time::sleep(HEAD_START).await } else { std::future::pending().await }
        };
        tokio::select! {
            biased;
            done = running.next() => match done {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = head_start => {}
        }
    }
}

/// The addresses with alternating families, beginning with the resolver's first.
fn in_turn(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let first_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (one, other): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().partition(|a| a.is_ipv6() == first_is_v6);
    let longest = one.len().max(other.len());
    let pairs = (0..longest).flat_map(|n| [one.get(n), other.get(n)]);
    pairs.flatten().copied().collect()
}

fn refused(address: SocketAddr, error: &io::Error) -> Refusal {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => RefusalKind::Refused,
        io::ErrorKind::TimedOut => RefusalKind::Timeout,
        _ => RefusalKind::Unreachable,
    };
    Refusal::new(kind, format!("{address}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let given = ips(&["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(in_turn(&given), ips(&["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]));
        assert_eq!(in_turn(&ips(&["1.1.1.1", "::1"])), ips(&["1.1.1.1", "::1"]));
        assert_eq!(in_turn(&[]), ips(&[]));
    }

    #[tokio::test]
    async fn a_later_address_is_taken_when_the_first_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let limit = Duration::from_secs(10);
        let stream = connect(&ips(&["127.0.0.3", "127.0.0.2"]), port, limit).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        drop(listener);
        let error = connect(&ips(&["127.0.0.3", "127.0.0.2"]), port, limit).await.unwrap_err();
        assert_eq!(error.kind, RefusalKind::Refused);
        assert!(error.message.contains("127.0.0."), "{}", error.message);
        assert!(connect(&[], port, limit).await.is_err());
    }
}
