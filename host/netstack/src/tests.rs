//! A smoltcp guest at the other end of the card tests the network that it sees.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    phy::{self, Device, DeviceCapabilities, Medium},
    socket::{dhcpv4, tcp, udp},
    time::Instant as Clock,
    wire::{EthernetAddress, IpCidr, IpEndpoint},
};
use wire::egress::{Message, Refusal, RefusalKind, Reply, Request};

use crate::{GATEWAY, GUEST, RESOLVER, fuzzing, gateway::CONNECTIONS_MAX, serve};

/// Time limit of each step; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The guest's end of the card.
struct Card(UnixStream);

struct Frame(Vec<u8>);
struct Out<'a>(&'a mut UnixStream);

impl phy::RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        let mut bytes = u32::try_from(len).unwrap().to_be_bytes().to_vec();
        bytes.extend(frame);
        self.0.set_nonblocking(false).unwrap();
        let _ = self.0.write_all(&bytes);
        self.0.set_nonblocking(true).unwrap();
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Clock) -> Option<(Frame, Out<'_>)> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).ok()?;
        self.0.set_nonblocking(false).unwrap();
        let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        self.0.read_exact(&mut frame).ok()?;
        self.0.set_nonblocking(true).unwrap();
        Some((Frame(frame), Out(&mut self.0)))
    }

    fn transmit(&mut self, _: Clock) -> Option<Out<'_>> {
        Some(Out(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Guest {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    began: Instant,
    gateway: thread::JoinHandle<io::Result<()>>,
}

impl Guest {
    /// A guest whose channels are served by `host`, one thread each.
    fn new(host: impl Fn(UnixStream) + Clone + Send + 'static) -> Self {
        let (ours, card) = UnixStream::pair().unwrap();
        let open_channel = move || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let host = host.clone();
            thread::spawn(move || host(theirs));
            Some(ours)
        };
        let gateway = thread::spawn(move || serve(ours, open_channel, 7));
        card.set_nonblocking(true).unwrap();
        let mut card = Card(card);
        let mut config = Config::new(EthernetAddress([2, 0, 0, 0, 0, 1]).into());
        config.random_seed = 11;
        let interface = Interface::new(config, &mut card, Clock::ZERO);
        let sockets = SocketSet::new(Vec::new());
        Self { card, interface, sockets, began: Instant::now(), gateway }
    }

    fn poll(&mut self) {
        let now = Clock::from_micros(i64::try_from(self.began.elapsed().as_micros()).unwrap());
        self.interface.poll(now, &mut self.card, &mut self.sockets);
        thread::sleep(Duration::from_micros(200));
    }

    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            self.poll();
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < end, "{what} took longer than {PATIENCE:?}");
        }
    }

    /// Configures an address by DHCP, and returns the name servers.
    fn configure(&mut self) -> Vec<Ipv4Addr> {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        let config = self.until("DHCP", |guest| {
            match guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
                Some(dhcpv4::Event::Configured(config)) => {
                    Some((config.address, config.router, config.dns_servers.to_vec()))
                }
                _ => None,
            }
        });
        let (address, router, names) = config;
        assert_eq!((address.address(), address.prefix_len()), (GUEST, 24));
        assert_eq!(router, Some(GATEWAY));
        self.interface.update_ip_addrs(|list| list.push(IpCidr::Ipv4(address)).unwrap());
        self.interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        self.sockets.remove(handle);
        names
    }

    /// Resolves a name; returns the response code and the address.
    fn resolve(&mut self, name: &str) -> (u8, Option<Ipv4Addr>) {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 4], vec![0; 2048]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(40_000).unwrap();
        let handle = self.sockets.add(socket);
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let server = IpEndpoint::new(RESOLVER.into(), 53);
        self.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(&query, server).unwrap();
        let response = self.until("a name", |guest| {
            let (bytes, meta) = guest.sockets.get_mut::<udp::Socket<'_>>(handle).recv().ok()?;
            assert_eq!(meta.endpoint, server, "the answer comes from who was asked");
            Some(bytes.to_vec())
        });
        self.sockets.remove(handle);
        let address = (response[7] > 0).then(|| {
            let octets: [u8; 4] = *response.last_chunk().unwrap();
            octets.into()
        });
        (response[3] & 0xf, address)
    }

    /// Connects; `None` when the connection is refused.
    fn connect(&mut self, to: Ipv4Addr, port: u16, from: u16) -> Option<SocketHandle> {
        let buffer = || tcp::SocketBuffer::new(vec![0; 32 << 10]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let endpoint = IpEndpoint::new(to.into(), port);
        socket.connect(self.interface.context(), endpoint, from).unwrap();
        let handle = self.sockets.add(socket);
        self.until("a connection", |guest| {
            match guest.sockets.get_mut::<tcp::Socket<'_>>(handle).state() {
                tcp::State::Established => Some(Some(handle)),
                tcp::State::Closed => Some(None),
                _ => None,
            }
        })
    }

    /// Sends all data, closes the direction, and returns what arrives until the peer closes.
    fn exchange(&mut self, handle: SocketHandle, bytes: &[u8]) -> Vec<u8> {
        let (mut sent, mut received) = (0, Vec::new());
        self.until("an exchange", |guest| {
            let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if sent < bytes.len() && socket.can_send() {
                sent += socket.send_slice(&bytes[sent..]).unwrap();
                if sent == bytes.len() {
                    socket.close();
                }
            }
            let mut piece = [0; 4096];
            while socket.can_recv() {
                let count = socket.recv_slice(&mut piece).unwrap();
                received.extend_from_slice(&piece[..count]);
            }
            let over = sent == bytes.len() && !socket.may_recv() && !socket.can_recv();
            over.then(|| std::mem::take(&mut received))
        })
    }
}

/// A host with one name and an echo server on one port.
fn echo(mut stream: UnixStream) {
    let known = |host: &str| host == "echo.example";
    let (reply, serve) = match Request::read_from(&mut stream).unwrap() {
        Request::Resolve { name, .. } if known(&name) => (Reply::ok(Some(1)), false),
        Request::Resolve { .. } => {
            (Reply::refused(&Refusal::new(RefusalKind::Nxdomain, "no such name")), false)
        }
        Request::Connect { host, port: 7, .. } if known(&host) => (Reply::ok(None), true),
        Request::Connect { .. } => (Reply::refused(&Refusal::policy("not allowed")), false),
    };
    reply.write_to(&mut stream).unwrap();
    if serve {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    }
}

#[test]
fn a_guest_gets_an_address_names_and_connections() {
    let mut guest = Guest::new(echo);
    assert_eq!(guest.configure(), [RESOLVER]);
    assert_eq!(guest.resolve("nobody.example"), (3, None));
    let (code, address) = guest.resolve("echo.example");
    let address = address.unwrap();
    assert_eq!((code, address.octets()[..2].to_vec()), (0, vec![198, 18]));
    let handle = guest.connect(address, 7, 50_000).unwrap();
    // More than all buffers together.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    assert!(guest.exchange(handle, &bytes) == bytes, "the same bytes come back");
}

#[test]
fn a_refused_connection_is_refused_to_the_guest() {
    let mut guest = Guest::new(echo);
    guest.configure();
    let (_, address) = guest.resolve("echo.example");
    assert_eq!(guest.connect(address.unwrap(), 8, 50_000), None, "another port");
    assert_eq!(guest.connect(GATEWAY, 22, 50_001), None, "the host behind the gateway");
    assert_eq!(guest.connect([169, 254, 169, 254].into(), 80, 50_002), None, "by address");
    assert!(guest.connect(address.unwrap(), 7, 50_003).is_some(), "and the allowed one is not");
}

#[test]
fn connections_have_a_limit_and_make_room_when_they_end() {
    let open = Arc::new(AtomicUsize::new(0));
    let (counted, most) = (Arc::clone(&open), Arc::new(AtomicUsize::new(0)));
    let peak = Arc::clone(&most);
    let mut guest = Guest::new(move |stream| {
        peak.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // The host never replies.
        let _ = (&stream).read_to_end(&mut Vec::new());
        counted.fetch_sub(1, Ordering::SeqCst);
    });
    guest.configure();
    let mut handles = Vec::new();
    for port in 0..u16::try_from(CONNECTIONS_MAX).unwrap() + 20 {
        let buffer = || tcp::SocketBuffer::new(vec![0; 512]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let endpoint = IpEndpoint::new(Ipv4Addr::new(192, 0, 2, 1).into(), 80);
        socket.connect(guest.interface.context(), endpoint, 20_000 + port).unwrap();
        handles.push(guest.sockets.add(socket));
    }
    guest.until("the limit", |guest| {
        let closed = |handle: &&SocketHandle| {
            guest.sockets.get::<tcp::Socket<'_>>(**handle).state() == tcp::State::Closed
        };
        let refused = handles.iter().filter(closed).count();
        // The host's threads start on their streams later.
        (refused == 20 && most.load(Ordering::SeqCst) == CONNECTIONS_MAX).then_some(())
    });
    assert_eq!(most.load(Ordering::SeqCst), CONNECTIONS_MAX);
}

#[test]
fn the_gateway_ends_with_the_card() {
    let guest = Guest::new(echo);
    drop(guest.card);
    guest.gateway.join().unwrap().unwrap();
}

#[test]
fn what_no_card_sends_ends_the_gateway() {
    let (ours, mut card) = UnixStream::pair().unwrap();
    card.write_all(&u32::MAX.to_be_bytes()).unwrap();
    let error = serve(ours, || None, 0).unwrap_err();
    assert!(error.to_string().contains("frame of"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_frame_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        fuzzing::frames(&bytes);
        // The same bytes as a payload after an IPv4 and an ARP header.
        for kind in [[8, 0], [8, 6]] {
            let mut frame = vec![0xff; 12];
            frame.extend(kind);
            frame.extend(&bytes);
            let mut framed = u32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(frame);
            fuzzing::frames(&framed);
        }
    }
}
