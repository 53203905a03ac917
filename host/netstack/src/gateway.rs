//! The event loop that serves a network card: frames, egress requests, connections.

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use name_service::{Code, Names, QUERY_MAX_BYTES, answer_here, parse, respond};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::{tcp, udp},
    time::Instant as Clock,
    wire::{
        ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr, IpEndpoint,
        IpListenEndpoint, IpProtocol, Ipv4Address, Ipv4Packet, TcpPacket,
    },
};
use wire::egress::{Request, VERSION};

use crate::{
    GATEWAY, PREFIX_BITS, RESOLVER, dhcp,
    egress_request::{Answer, EgressRequest},
    flow::{BUFFER_BYTES, Flow},
    link::{Link, Progress},
};

/// The gateway's MAC address, the same as in QEMU's user-mode network.
const HARDWARE: EthernetAddress = EthernetAddress([0x52, 0x55, 0x0a, 0x00, 0x02, 0x02]);
/// Maximum connections, pending or open; further ones are reset. Each may hold twice
/// [`BUFFER_BYTES`].
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// Maximum pending lookups; further ones are answered with "try again" (SERVFAIL).
const LOOKUPS_MAX: usize = 64;
/// Maximum queued datagrams in each direction, for DHCP and for DNS.
const DATAGRAMS_MAX: usize = 64;
/// Maximum size of a DHCP message.
const DHCP_MAX_BYTES: usize = 1500;
/// Frames processed before connections are served.
const BATCH: usize = 64;

const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const NAMES: u16 = 53;

/// An address and a port.
type End = (Ipv4Address, u16);
/// Both ends of a connection; the guest's end is first.
type Ends = (End, End);

/// A connection of the guest.
#[derive(Debug)]
enum Connection {
    /// The host has not replied yet; the SYN is kept.
    Requested { request: EgressRequest, syn: Vec<u8> },
    /// The host has granted it.
    Open(Flow),
}

/// A pending name lookup.
#[derive(Debug)]
struct Lookup {
    request: EgressRequest,
    query: Vec<u8>,
    meta: udp::UdpMetadata,
}

/// What to do with a frame.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Drop it: it is not addressed to the gateway.
    Drop,
    /// Pass it to smoltcp.
    Take,
    /// Request a connection from the host.
    Connect(Ends),
}

/// The gateway of a guest.
pub(crate) struct Gateway<D> {
    link: Link,
    open_channel: D,
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    names_socket: SocketHandle,
    names: Names,
    connections: HashMap<Ends, Connection>,
    lookups: Vec<Lookup>,
    began: Instant,
}

impl<D: FnMut() -> Option<UnixStream>> Gateway<D> {
    pub(crate) fn new(frames: UnixStream, open_channel: D, seed: u64) -> io::Result<Self> {
        let mut link = Link::new(frames)?;
        let mut config = Config::new(HARDWARE.into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut link, Clock::ZERO);
        let mut has_room = true;
        interface.update_ip_addrs(|list| {
            for address in [GATEWAY, RESOLVER] {
                has_room &= list.push(IpCidr::new(address.into(), PREFIX_BITS)).is_ok();
            }
        });
        if !has_room {
            return Err(io::Error::other("smoltcp has no room for the gateway's addresses"));
        }
        // The gateway routes all addresses, so it accepts packets to any.
        interface.set_any_ip(true);
        interface
            .routes_mut()
            .add_default_ipv4_route(GATEWAY)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let mut sockets = SocketSet::new(Vec::new());
        let mut port = |port: u16, bytes: usize| {
            let buffer = || {
                let headers = vec![udp::PacketMetadata::EMPTY; DATAGRAMS_MAX];
                udp::PacketBuffer::new(headers, vec![0; DATAGRAMS_MAX * bytes])
            };
            let mut socket = udp::Socket::new(buffer(), buffer());
            socket.bind(port).map_err(|error| io::Error::other(error.to_string()))?;
            Ok::<_, io::Error>(sockets.add(socket))
        };
        let dhcp = port(DHCP_SERVER, DHCP_MAX_BYTES)?;
        let names_socket = port(NAMES, QUERY_MAX_BYTES)?;
        Ok(Self {
            link,
            open_channel,
            interface,
            sockets,
            dhcp,
            names_socket,
            names: Names::default(),
            connections: HashMap::new(),
            lookups: Vec::new(),
            began: Instant::now(),
        })
    }

    /// Serves until the card is closed.
    pub(crate) fn run(mut self) -> io::Result<()> {
        while self.turn()? == Progress::Open {
            self.wait()?;
        }
        Ok(())
    }

    /// Does all work that needs no waiting.
    pub(crate) fn turn(&mut self) -> io::Result<Progress> {
        if self.link.has_room() && self.link.read()? == Progress::Closed {
            return Ok(Progress::Closed);
        }
        for _ in 0..BATCH {
            if !self.link.has_room() {
                break;
            }
            let Some(frame) = self.link.take()? else { break };
            self.frame(frame);
        }
        self.answer_dhcp();
        self.answer_names();
        self.advance_lookups();
        self.advance_connections();
        self.interface.poll(self.now(), &mut self.link, &mut self.sockets);
        self.link.flush()
    }

    fn now(&self) -> Clock {
        let micros = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        Clock::from_micros(micros)
    }

    fn frame(&mut self, frame: Vec<u8>) {
        match verdict(&frame) {
            Verdict::Drop => {}
            Verdict::Take => self.take(frame),
            Verdict::Connect(ends) => self.connect(ends, frame),
        }
    }

    /// Passes a frame to smoltcp.
    fn take(&mut self, frame: Vec<u8>) {
        self.link.next = Some(frame);
        self.interface.poll(self.now(), &mut self.link, &mut self.sockets);
        self.link.next = None;
    }

    /// Requests a connection from the host and keeps the guest's SYN meanwhile, so that the guest's
    /// connect(2) gets the host's answer.
    fn connect(&mut self, ends: Ends, syn: Vec<u8>) {
        match self.connections.get(&ends) {
            // A retransmission of the same SYN.
            Some(Connection::Requested { .. }) => return,
            Some(Connection::Open(_)) => return self.take(syn),
            None => {}
        }
        match self.ask(ends.1) {
            Some(request) => {
                self.connections.insert(ends, Connection::Requested { request, syn });
            }
            // Without a listening socket, smoltcp resets it.
            None => self.take(syn),
        }
    }

    fn ask(&mut self, (address, port): End) -> Option<EgressRequest> {
        if self.connections.len() >= CONNECTIONS_MAX {
            return None;
        }
        let host = self.names.host_of(address);
        let request = Request::Connect { v: VERSION, host, port };
        EgressRequest::new((self.open_channel)()?, &request).ok()
    }

    fn answer_dhcp(&mut self) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.dhcp);
        while socket.can_send() {
            let Ok((message, _)) = socket.recv() else { break };
            let Some(reply) = dhcp::answer(message) else { continue };
            // Broadcast, as the guest has no address yet.
            let endpoint = IpEndpoint::new(Ipv4Address::BROADCAST.into(), DHCP_CLIENT);
            let meta = udp::UdpMetadata {
                local_address: Some(GATEWAY.into()),
                ..udp::UdpMetadata::from(endpoint)
            };
            // If there was no room, the guest asks again.
            let _ = socket.send_slice(&reply, meta);
        }
    }

    fn answer_names(&mut self) {
        loop {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.names_socket);
            if !socket.can_send() {
                return;
            }
            let Ok((query, meta)) = socket.recv() else { return };
            let query = query.to_vec();
            let question = match parse(&query) {
                None => continue,
                Some(Err(code)) => {
                    self.respond(&respond(&query, None, code, None), meta);
                    continue;
                }
                Some(Ok(question)) => question,
            };
            if let Some((code, address)) = answer_here(&question, &self.names) {
                self.respond(&respond(&query, Some(&question), code, address), meta);
                continue;
            }
            let request = Request::Resolve { v: VERSION, name: question.name.clone() };
            let asked = (self.lookups.len() < LOOKUPS_MAX)
                .then(|| EgressRequest::new((self.open_channel)()?, &request).ok())
                .flatten();
            match asked {
                Some(request) => self.lookups.push(Lookup { request, query, meta }),
                None => {
                    let refused = respond(&query, Some(&question), Code::ServerFailure, None);
                    self.respond(&refused, meta);
                }
            }
        }
    }

    /// Sends a DNS response from the address to which the query was sent.
    fn respond(&mut self, response: &[u8], meta: udp::UdpMetadata) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(self.names_socket);
        // If there was no room, the client asks again.
        let _ = socket.send_slice(response, meta);
    }

    fn advance_lookups(&mut self) {
        for mut lookup in std::mem::take(&mut self.lookups) {
            let answer = lookup.request.answer();
            let Some(Ok(question)) = parse(&lookup.query) else { continue };
            let (code, address) = match answer {
                Answer::Pending => {
                    self.lookups.push(lookup);
                    continue;
                }
                Answer::Granted => (Code::NoError, Some(self.names.give(&question.name))),
                Answer::Refused(refusal) => (Code::of(&refusal), None),
            };
            let response = respond(&lookup.query, Some(&question), code, address);
            self.respond(&response, lookup.meta);
        }
    }

    fn advance_connections(&mut self) {
        let asked: Vec<(Ends, Answer)> = self
            .connections
            .iter_mut()
            .filter_map(|(ends, connection)| match connection {
                Connection::Requested { request, .. } => match request.answer() {
                    Answer::Pending => None,
                    answer => Some((*ends, answer)),
                },
                Connection::Open(_) => None,
            })
            .collect();
        for (ends, answer) in asked {
            let Some(Connection::Requested { request, syn }) = self.connections.remove(&ends)
            else {
                continue;
            };
            if let Answer::Granted = answer
                && let Some(handle) = self.listen(ends.1)
            {
                let flow = Flow::new(handle, request.into_channel());
                self.connections.insert(ends, Connection::Open(flow));
            }
            self.take(syn);
        }
        let sockets = &mut self.sockets;
        self.connections.retain(|_, connection| {
            let Connection::Open(flow) = connection else { return true };
            let is_over = flow.advance(sockets.get_mut(flow.handle));
            if is_over {
                sockets.remove(flow.handle);
            }
            !is_over
        });
    }

    /// Creates a listening socket for the one connection that is about to be accepted.
    fn listen(&mut self, (address, port): End) -> Option<SocketHandle> {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.listen(IpListenEndpoint { addr: Some(address.into()), port }).ok()?;
        Some(self.sockets.add(socket))
    }

    /// Waits for the next event.
    fn wait(&mut self) -> io::Result<()> {
        let mut card = PollFlags::empty();
        card.set(PollFlags::POLLIN, self.link.has_room());
        card.set(PollFlags::POLLOUT, self.link.has_output());
        let mut waiting = vec![PollFd::new(self.link.fd(), card)];
        let mut wait_for = |(fd, flags)| waiting.push(PollFd::new(fd, flags));
        self.lookups.iter().map(|lookup| lookup.request.interest()).for_each(&mut wait_for);
        for connection in self.connections.values() {
            match connection {
                Connection::Requested { request, .. } => wait_for(request.interest()),
                Connection::Open(flow) => {
                    flow.interest(self.sockets.get(flow.handle))
                        .into_iter()
                        .for_each(&mut wait_for);
                }
            }
        }
        let delay = self.interface.poll_delay(self.now(), &self.sockets);
        // If the card accepts no data, only its readiness matters.
        let delay = delay.filter(|_| self.link.has_room()).map(Duration::from);
        let timeout = delay.map_or(PollTimeout::NONE, |delay| {
            // Rounded up, since a timeout of zero would return at once.
            let millis = delay.as_micros().div_ceil(1000);
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut waiting, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn verdict(frame: &[u8]) -> Verdict {
    verdict_of_checked(frame).unwrap_or(Verdict::Drop)
}

fn verdict_of_checked(frame: &[u8]) -> smoltcp::wire::Result<Verdict> {
    let frame = EthernetFrame::new_checked(frame)?;
    match frame.ethertype() {
        EthernetProtocol::Arp => {
            let ArpRepr::EthernetIpv4 { target_protocol_addr, .. } =
                ArpRepr::parse(&ArpPacket::new_checked(frame.payload())?)?
            else {
                return Ok(Verdict::Drop);
            };
            // smoltcp would answer ARP for every address, including the guest's.
            let ours = [GATEWAY, RESOLVER].contains(&target_protocol_addr);
            Ok(if ours { Verdict::Take } else { Verdict::Drop })
        }
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(frame.payload())?;
            if packet.more_frags() || packet.frag_offset() > 0 {
                // The announced MTU makes fragments unnecessary.
                return Ok(Verdict::Drop);
            }
            if packet.next_header() != IpProtocol::Tcp {
                return Ok(Verdict::Take);
            }
            let segment = TcpPacket::new_checked(packet.payload())?;
            if !segment.syn() || segment.ack() || !is_unicast(packet.dst_addr()) {
                return Ok(Verdict::Take);
            }
            let from = (packet.src_addr(), segment.src_port());
            let to = (packet.dst_addr(), segment.dst_port());
            Ok(Verdict::Connect((from, to)))
        }
        _ => Ok(Verdict::Drop),
    }
}

/// Whether it is a unicast address.
fn is_unicast(address: Ipv4Address) -> bool {
    !(address.is_broadcast() || address.is_multicast() || address.is_unspecified())
}
