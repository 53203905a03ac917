//! What the parent and the VMM process say to each other.
//!
//! ```text
//!  parent                               VMM process
//!    │── Start{role}, descriptors ──────────►│  builds, confines itself
//!    │◄─────────────────── Started | Failed ─│
//!    │── Connect{port}, stream ─────────────►│
//!    │── PushLayer{id}, file ───────────────►│
//!    │◄──────────────────────── Answer{id} ──│
//!    │◄───────────────────────────── Ended ──│
//!
//!  policy socket: GuestConnect{port} ◄── asked by the vsock thread
//!                 Decision, stream ──► answered at once
//! ```
//!
//! Each message is one JSON datagram on a `SOCK_SEQPACKET` pair, with its file
//! descriptors beside it: no framing, no partial reads, no paths.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use confine::{Landlock, SystemCalls, trial::Attempt};
use machine::HaltReason;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::sandbox::Kind;

/// The longest message: 16 drives and a command line are a few KiB.
const MESSAGE_MAX_BYTES: usize = 64 << 10;
/// The most descriptors beside one message (`SCM_MAX_FD` of Linux).
pub(crate) const DESCRIPTORS_MAX: usize = 253;

/// How a drive's bytes are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

/// A drive; its layers' descriptors follow in the message, top first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BootDrive {
    pub(crate) serial: String,
    pub(crate) read_only: bool,
    pub(crate) durable: bool,
    pub(crate) block_bytes: u32,
    /// Formats of the layers, top first.
    pub(crate) layers: Vec<Format>,
}

/// How the VMM process confines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// A system call outside of a thread's list ends the process.
    #[default]
    Enforce,
    /// It is allowed and logged by the kernel, to find what a list lacks.
    Log,
}

impl From<Sandbox> for SystemCalls {
    fn from(sandbox: Sandbox) -> Self {
        match sandbox {
            Sandbox::Enforce => Self::Listed,
            Sandbox::Log => Self::Noted,
        }
    }
}

/// The first message to a process: what it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    /// Both sides are the same binary; a difference means it was replaced.
    pub(crate) version: String,
    /// The parent, to notice that it died before the death signal was set.
    pub(crate) parent: i32,
    pub(crate) sandbox: Sandbox,
    pub(crate) role: Role,
}

impl Start {
    /// What this process says to one that it has started.
    pub(crate) fn new(sandbox: Sandbox, role: Role) -> Self {
        let parent = nix::unistd::getpid().as_raw();
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), parent, sandbox, role }
    }
}

/// What a process is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Role {
    /// A machine.
    Machine(Boot),
    /// The vsock device of a machine that another VMM runs. Its descriptors: the
    /// counters, the policy socket, and a listening socket on which that VMM's
    /// vhost-user connection waits.
    Vsock,
    /// The other end of the network card of a machine that another VMM runs. Its
    /// descriptors: the counters, the policy socket, and the stream of frames.
    Nic {
        /// The port that stands for the network's door on the policy socket.
        door_port: u32,
    },
    /// A process that confines itself as the others do and then tries what it must
    /// not be able to do. Without an attempt it only tells what confines it.
    Trial {
        /// As which kind of thread.
        kind: Kind,
        /// What it tries.
        attempt: Option<Attempt>,
    },
}

/// The machine as the VMM process needs it. Its descriptors, in order: KVM,
/// kernel, initramfs, counters, policy socket, then the layers of all drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Boot {
    pub(crate) vcpus: u8,
    pub(crate) memory_bytes: u64,
    pub(crate) cmdline: String,
    pub(crate) drives: Vec<BootDrive>,
}

/// Descriptors of a [`Boot`] before the layers of the drives.
pub(crate) const BOOT_DESCRIPTORS: usize = 5;

/// From the parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ToVmm {
    /// The first message.
    Start(Start),
    /// Connect the accompanying stream to a port of the guest.
    Connect { port: u32 },
    /// Put the accompanying qcow2 file on top of a drive.
    PushLayer { id: u64, serial: String },
}

/// To the parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum FromVmm {
    /// The process is confined and serves; its processors run.
    Started { landlock: Landlock },
    /// The machine could not be built.
    Failed { reason: String },
    /// The answer to the request with this id; an error is its text.
    Answer { id: u64, error: Option<String> },
    /// An attempt was carried out; an error is why it failed.
    Tried { error: Option<String> },
    /// The machine has ended; the process ends next.
    Ended { reason: Halt },
}

/// On the policy socket, from the VMM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskConnect {
    pub(crate) port: u32,
}

/// On the policy socket, to the VMM; with a stream when accepted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decision {
    pub(crate) accept: bool,
}

/// [`HaltReason`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Halt {
    PowerOff,
    Reboot,
    Panic,
    Killed,
    Lost(String),
}

impl From<HaltReason> for Halt {
    fn from(reason: HaltReason) -> Self {
        match reason {
            HaltReason::PowerOff => Self::PowerOff,
            HaltReason::Reboot => Self::Reboot,
            HaltReason::Panic => Self::Panic,
            HaltReason::Killed => Self::Killed,
            HaltReason::Lost(text) => Self::Lost(text),
        }
    }
}

impl From<Halt> for HaltReason {
    fn from(reason: Halt) -> Self {
        match reason {
            Halt::PowerOff => Self::PowerOff,
            Halt::Reboot => Self::Reboot,
            Halt::Panic => Self::Panic,
            Halt::Killed => Self::Killed,
            Halt::Lost(text) => Self::Lost(text),
        }
    }
}

/// One end of a message socket.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// A connected pair.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(a), Self(b)))
    }

    /// Wraps a descriptor that is one end of a pair.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor, to be given to a child process.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The descriptor, to be polled or passed on.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    /// Ends waiting for a message after this time; the wait then fails with
    /// `WouldBlock`.
    pub(crate) fn set_timeout(&self, timeout: Option<std::time::Duration>) -> io::Result<()> {
        use nix::sys::{
            socket::{setsockopt, sockopt::ReceiveTimeout},
            time::{TimeVal, TimeValLike},
        };
        let millis = timeout.map_or(0, |timeout| timeout.as_millis());
        let value = TimeVal::milliseconds(i64::try_from(millis).unwrap_or(i64::MAX));
        Ok(setsockopt(&self.0, ReceiveTimeout, &value)?)
    }

    /// Sends a message with descriptors.
    pub(crate) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_MAX_BYTES || fds.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "message is too large"));
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        loop {
            let iov = [IoSlice::new(&bytes)];
            match sendmsg::<()>(self.0.as_raw_fd(), &iov, rights, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for a message. `None` when the other end is closed.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_MAX_BYTES];
        let (len, fds, truncated) = loop {
            match self.receive_once(&mut bytes) {
                Ok(received) => break received,
                // A reset means that the other end closed without reading
                // everything of ours. It is told before what that end has sent,
                // and only once: its last words are still to come.
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::ECONNRESET) => {}
                Err(e) => return Err(e.into()),
            }
        };
        if len == 0 {
            return Ok(None);
        }
        if truncated {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message was cut"));
        }
        Ok(Some((serde_json::from_slice(&bytes[..len])?, fds)))
    }

    fn receive_once(&self, bytes: &mut [u8]) -> nix::Result<(usize, Vec<OwnedFd>, bool)> {
        let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
        let mut iov = [IoSliceMut::new(bytes)];
        let message = recvmsg::<()>(
            self.0.as_raw_fd(),
            &mut iov,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut fds = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made these descriptors for this
                // process, and nothing else knows of them.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let cut = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
        Ok((message.bytes, fds, cut))
    }
}

/// A message as either side may get it, for the fuzz target.
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = serde_json::from_slice::<ToVmm>(bytes);
    if let Ok(FromVmm::Ended { reason }) = serde_json::from_slice(bytes) {
        let _ = HaltReason::from(reason);
    }
    let _ = serde_json::from_slice::<AskConnect>(bytes);
    let _ = serde_json::from_slice::<Decision>(bytes);
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, os::fd::AsFd};

    use super::*;

    #[test]
    fn last_words_are_heard_of_one_who_did_not_listen() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&ToVmm::Connect { port: 2 }, &[]).unwrap();
        b.send(&FromVmm::Ended { reason: Halt::Panic }, &[]).unwrap();
        drop(b);
        let heard = a.receive::<FromVmm>().unwrap().unwrap().0;
        assert!(matches!(heard, FromVmm::Ended { reason: Halt::Panic }), "{heard:?}");
        assert!(a.receive::<FromVmm>().unwrap().is_none());
    }

    #[test]
    fn messages_carry_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        a.send(&ToVmm::Connect { port: 1024 }, &[writer.as_fd()]).unwrap();
        drop(writer);
        let (message, mut fds) = b.receive::<ToVmm>().unwrap().unwrap();
        assert!(matches!(message, ToVmm::Connect { port: 1024 }));
        let mut file = File::from(fds.pop().unwrap());
        io::Write::write_all(&mut file, b"here").unwrap();
        drop(file);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "here");
    }

    #[test]
    fn a_closed_end_and_rubbish_are_told_apart() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&serde_json::json!({"connect": {"port": "x"}}), &[]).unwrap();
        assert_eq!(b.receive::<ToVmm>().unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(a);
        assert!(b.receive::<ToVmm>().unwrap().is_none());
    }

    #[test]
    fn a_wait_can_be_bounded() {
        let (a, _b) = Channel::pair().unwrap();
        a.set_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        let error = a.receive::<FromVmm>().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
