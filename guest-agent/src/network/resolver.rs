//! The guest's name service. It answers `A` with an address that stands for the name, once the host
//! has resolved the name, and most other queries with "no such data".

use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg,
};

use name_service::{Code, Names, QUERY_MAX_BYTES, answer_here, parse, respond};
use wire::egress::{RefusalKind, Request, VERSION};

use super::THREAD_STACK_BYTES;
use super::egress::ask;
use super::redirect::say_once;

/// The maximum number of names that the host resolves at once; more are answered "try again".
const ASKING_MAX: usize = 64;

fn answer_by_host(name: &str, names: &Names) -> (Code, Option<Ipv4Addr>) {
    match ask(&Request::Resolve { v: VERSION, name: name.to_owned() }) {
        Ok(_) => (Code::NoError, Some(names.give(name))),
        Err(refusal) => {
            match refusal.kind {
                RefusalKind::Nxdomain => {}
                RefusalKind::Policy => {
                    say_once(&format!("network: {name} is refused: {}", refusal.message));
                }
                _ => say_once(&format!("network: {name} is not resolved: {}", refusal.message)),
            }
            (Code::of(&refusal), None)
        }
    }
}

/// The client of a query, and the address to which the query was sent.
#[derive(Debug, Clone, Copy)]
struct Route {
    client: SockaddrIn,
    asked: libc::in_addr,
}

fn receive(socket: &UdpSocket, query: &mut [u8]) -> nix::Result<Option<(usize, Route)>> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(query)];
    let received = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    let asked = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(info.ipi_addr),
        _ => None,
    });
    let (count, client) = (received.bytes, received.address);
    Ok(client.zip(asked).map(|(client, asked)| (count, Route { client, asked })))
}

fn send(socket: &UdpSocket, response: &[u8], route: Route) {
    let info = libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: route.asked,
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    let slices = [IoSlice::new(response)];
    // Errors are ignored: a client that gets no answer asks again.
    let _ =
        sendmsg(socket.as_raw_fd(), &slices, &control, MsgFlags::MSG_DONTWAIT, Some(&route.client));
}

/// Answers queries until the socket fails.
pub(super) fn run(socket: &UdpSocket, names: &Arc<Names>) {
    let asking = Arc::new(AtomicUsize::new(0));
    let mut buffer = [0; QUERY_MAX_BYTES];
    loop {
        let (count, route) = match receive(socket, &mut buffer) {
            Ok(Some(received)) => received,
            Ok(None) | Err(Errno::EINTR) => continue,
            Err(errno) => return say_once(&format!("network: the resolver failed: {errno}")),
        };
        let query = &buffer[..count];
        let question = match parse(query) {
            None => continue,
            Some(Err(code)) => {
                send(socket, &respond(query, None, code, None), route);
                continue;
            }
            Some(Ok(question)) => question,
        };
        if let Some((code, address)) = answer_here(&question, names) {
            send(socket, &respond(query, Some(&question), code, address), route);
        } else if asking.load(Ordering::Relaxed) >= ASKING_MAX {
            send(socket, &respond(query, Some(&question), Code::ServerFailure, None), route);
        } else if let Ok(socket) = socket.try_clone() {
            let (query, names, asking) = (query.to_vec(), Arc::clone(names), Arc::clone(&asking));
            asking.fetch_add(1, Ordering::Relaxed);
            let counted = Arc::clone(&asking);
            let started = thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || {
                let (code, address) = answer_by_host(&question.name, &names);
                send(&socket, &respond(&query, Some(&question), code, address), route);
                asking.fetch_sub(1, Ordering::Relaxed);
            });
            if started.is_err() {
                counted.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
