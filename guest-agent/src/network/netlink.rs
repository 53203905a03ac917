//! Sets up interfaces, addresses and routes over rtnetlink: five messages, for which starting `ip`
//! would cost more than everything else here.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// The size of the header of a netlink message, in bytes.
const HEADER_BYTES: usize = 16;

/// The size of the buffer for an answer in bytes. An error message contains a header, an error
/// number and the message that caused it.
const ANSWER_MAX_BYTES: usize = 4096;

/// Values of `struct rtmsg` that libc does not define as u8.
const STATIC: u8 = 4;
const TYPE_UNICAST: u8 = 1;
const TYPE_LOCAL: u8 = 2;
const SCOPE_HOST: u8 = 254;
const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;

/// Returns the index of an interface.
pub(super) fn index(interface: &str) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/ifindex"))?;
    text.trim().parse().map_err(io::Error::other)
}

/// A netlink message under construction.
#[derive(Debug)]
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: i32) -> Self {
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or(0);
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// Returns a `struct ifinfomsg` that sets an interface up.
fn up_flags() -> [u8; 16] {
    let up = u32::try_from(libc::IFF_UP).unwrap_or(1).to_ne_bytes();
    let mut bytes = [0; 16];
    bytes[8..12].copy_from_slice(&up);
    bytes[12..].copy_from_slice(&up);
    bytes
}

fn name_value(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// Returns a `struct rtmsg` for a route to all addresses.
fn route(table: u8, scope: u8, kind: u8) -> [u8; 12] {
    let family = u8::try_from(libc::AF_INET).unwrap_or(2);
    [family, 0, 0, 0, table, STATIC, scope, kind, 0, 0, 0, 0]
}

/// A socket to the kernel's routing tables.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> nix::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map(Self)
    }

    /// Sends a message and checks the kernel's answer to it.
    fn ask(&mut self, message: Message) -> nix::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.0.as_raw_fd(), &message.finish(), &kernel, MsgFlags::empty())?;
        let mut answer = [0; ANSWER_MAX_BYTES];
        let count = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        parse_answer(&answer[..count])
    }

    /// Sets an interface up.
    pub(super) fn link_up(&mut self, name: &str) -> nix::Result<()> {
        let message = Message::new(libc::RTM_NEWLINK, 0)
            .fixed(&up_flags())
            .attribute(libc::IFLA_IFNAME, &name_value(name));
        self.ask(message)
    }

    /// Creates a dummy interface if the module has not created it, and sets it up.
    pub(super) fn dummy(&mut self, name: &str) -> nix::Result<()> {
        match self.link_up(name) {
            Err(Errno::ENODEV) => {}
            other => return other,
        }
        let kind = Message(Vec::new()).attribute(libc::IFLA_INFO_KIND, b"dummy");
        let message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
            .fixed(&up_flags())
            .attribute(libc::IFLA_IFNAME, &name_value(name))
            .attribute(libc::IFLA_LINKINFO, &kind.0);
        self.ask(message)
    }

    /// Assigns an address to an interface.
    pub(super) fn address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix_bits: u8,
    ) -> nix::Result<()> {
        let family = u8::try_from(libc::AF_INET).unwrap_or(2);
        let message = Message::new(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
            .fixed(&[family, prefix_bits, 0, 0])
            .fixed(&index.to_ne_bytes())
            .attribute(libc::IFA_LOCAL, &address.octets())
            .attribute(libc::IFA_ADDRESS, &address.octets());
        self.ask(message)
    }

    /// Sets the default route that programs see.
    pub(super) fn default_route(&mut self, index: u32, gateway: Ipv4Addr) -> nix::Result<()> {
        let message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
            .fixed(&route(TABLE_MAIN, 0, TYPE_UNICAST))
            .attribute(libc::RTA_GATEWAY, &gateway.octets())
            .attribute(libc::RTA_OIF, &index.to_ne_bytes());
        self.ask(message)
    }

    /// Makes every address one of this machine, in the routing table that is consulted first.
    pub(super) fn everything_local(&mut self, index: u32, source: Ipv4Addr) -> nix::Result<()> {
        let message = Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
            .fixed(&route(TABLE_LOCAL, SCOPE_HOST, TYPE_LOCAL))
            .attribute(libc::RTA_OIF, &index.to_ne_bytes())
            .attribute(libc::RTA_PREFSRC, &source.octets());
        self.ask(message)
    }
}

/// Checks the error number of an answer; zero is the acknowledgement.
fn parse_answer(answer: &[u8]) -> nix::Result<()> {
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(2), Some(0)) => Ok(()),
        (Some(2), Some(code)) => Err(Errno::from_raw(code.wrapping_neg())),
        _ => Err(Errno::EBADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_length_and_padding() {
        let message = Message::new(16, 0).fixed(&[1, 2, 3, 4]).attribute(3, b"lo\0").finish();
        assert_eq!(message.len(), 16 + 4 + 8);
        assert_eq!(message[..4], 28_u32.to_ne_bytes());
        assert_eq!(message[20..22], 7_u16.to_ne_bytes());
        assert_eq!(&message[24..], b"lo\0\0");
    }

    #[test]
    fn answers_are_error_numbers() {
        let answer = |code: i32| {
            let mut bytes = vec![0; 16];
            bytes[4] = 2;
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert_eq!(parse_answer(&answer(0)), Ok(()));
        assert_eq!(parse_answer(&answer(-17)), Err(Errno::EEXIST));
        assert_eq!(parse_answer(&[0; 3]), Err(Errno::EBADMSG));
    }
}
