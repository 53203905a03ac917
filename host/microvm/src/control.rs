//! The messages between the parent and the VMM process.
//!
//! ```text
//!  parent                               VMM process
//!    │── Start{role}, descriptors ──────────►│  builds, confines itself
//!    │◄─────────────────── Started | Failed ─│
//!    │── Connect{port}, stream ─────────────►│
//!    │── PushLayer{id}, file ───────────────►│
//!    │── Save{id}, memory, state ───────────►│
//!    │◄──────────────────────── Answer{id} ──│
//!    │◄───────────────────────────── Ended ──│
//!
//!  policy socket: GuestConnect{port} ◄── asked by the vsock thread
//!                 Decision, stream ──► answered at once
//! ```
//!
//! Each message is one JSON datagram on a `SOCK_SEQPACKET` pair, with its file descriptors as
//! ancillary data: no framing, no partial reads, no paths.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use confine::{Landlock, trial::Attempt};
use machine::HaltReason;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::sandbox::{Kind, Sandbox};

/// Maximum length of a message: 16 drives and a command line take a few KiB.
const MESSAGE_MAX_BYTES: usize = 64 << 10;
/// Maximum descriptors of one message (`SCM_MAX_FD` of Linux).
pub(crate) const DESCRIPTORS_MAX: usize = 253;

/// The format of a drive's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    Raw,
    Qcow2,
}

/// A drive; its layers' descriptors follow in the message, topmost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BootDrive {
    pub(crate) serial: String,
    pub(crate) read_only: bool,
    pub(crate) durable: bool,
    pub(crate) block_bytes: u32,
    /// Formats of the layers, topmost first.
    pub(crate) layers: Vec<Format>,
}

/// The first message to a process: its role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    /// Version of the program. Both sides are the same binary; a difference means that it was
    /// replaced.
    pub(crate) version: String,
    /// The parent's process id, to detect that it died before the death signal was set.
    pub(crate) parent: i32,
    pub(crate) sandbox: Sandbox,
    pub(crate) role: Role,
}

impl Start {
    /// The first message to a process started by this one.
    pub(crate) fn new(sandbox: Sandbox, role: Role) -> Self {
        let parent = nix::unistd::getpid().as_raw();
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), parent, sandbox, role }
    }
}

/// The role of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Role {
    /// A machine.
    Machine(Boot),
    /// The vsock device of a machine run by another VMM. Its descriptors: the counters, the policy
    /// socket, and a listening socket with the pending vhost-user connection of that VMM.
    Vsock,
    /// The network behind the card of a machine run by another VMM. Its descriptors: the counters,
    /// the policy socket, and the stream of frames.
    Nic {
        /// The egress port on the policy socket.
        egress_port: u32,
    },
    /// A process that confines itself like the others and then attempts something forbidden.
    /// Without an attempt it only reports its confinement.
    Trial {
        /// The kind of thread that it imitates.
        kind: Kind,
        /// The attempt.
        attempt: Option<Attempt>,
    },
}

/// How a machine begins, and the two files for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Begin {
    /// Its kernel boots: kernel, initramfs.
    Boot,
    /// The same, and [`ToVmm::Save`] follows.
    BootToSave,
    /// It goes on where a saved machine was stopped: memory, state.
    Restore,
}

/// The machine's description for the VMM process. Its descriptors, in order: KVM, the two files of
/// [`Begin`], counters, policy socket, then the layers of all drives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Boot {
    pub(crate) begin: Begin,
    pub(crate) vcpus: u8,
    pub(crate) memory_bytes: u64,
    pub(crate) cmdline: String,
    pub(crate) drives: Vec<BootDrive>,
}

/// Number of descriptors of a [`Boot`] before the layers of the drives.
pub(crate) const BOOT_DESCRIPTORS: usize = 5;

/// Messages from the parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ToVmm {
    /// The first message.
    Start(Start),
    /// Connect the attached stream to a port of the guest.
    Connect { port: u32 },
    /// Add the attached qcow2 file as the topmost layer of a drive.
    PushLayer { id: u64, serial: String },
    /// Stop the machine forever, and write its memory and its state into the attached files, which
    /// are empty.
    Save { id: u64 },
}

/// Messages to the parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum FromVmm {
    /// The process is confined and running; its CPUs have started.
    Started { landlock: Landlock },
    /// The machine could not be built.
    Failed { reason: String },
    /// The reply to the request with this id, with an error message if it failed.
    Answer { id: u64, error: Option<String> },
    /// The attempt was made; an error is the reason why it failed.
    Tried { error: Option<String> },
    /// The machine has ended; the process exits next.
    Ended { reason: Halt },
}

/// A request of the VMM on the policy socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskConnect {
    pub(crate) port: u32,
}

/// The reply to the VMM on the policy socket; with a stream if accepted.
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

/// One end of a message socket pair.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Creates a connected pair.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(a), Self(b)))
    }

    /// Wraps a descriptor that is one end of a pair.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor, to pass to a child process.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// The descriptor, to poll or to pass on.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }

    /// Sets the timeout for receiving a message, which then fails with `WouldBlock`.
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

    /// Waits for a message. `None` if the peer has closed its end.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_MAX_BYTES];
        let (len, fds, truncated) = loop {
            match self.receive_once(&mut bytes) {
                Ok(received) => break received,
                // A reset means that the peer closed without reading all messages. It is reported
                // before the peer's remaining messages, and only once: these can still be read.
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

/// Parses a message as either side receives it, for the fuzz target.
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
