//! QMP, the monitor protocol: commands use the `qapi` crate, events bypass it.
//!
//! ```text
//!            ┌─ event ──► Notice ──► observer     (unknown events: the log)
//!  QEMU ──► filter
//!            └─ greeting, return, error ──► qapi ──► the caller of `execute`
//!  QEMU ◄──────────────── commands ──────── qapi
//! ```
//!
//! The crate's schema is that of QEMU 9.1, and one unknown event ends its reader and all commands
//! with it. So events never reach it. The filter also limits the line length, which the crate does
//! not.

use std::{
    io::{self, IoSlice},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use qapi::{
    Command,
    futures::{QapiService, QmpStreamTokio},
    qmp::QmpCommand,
};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream},
    net::unix::OwnedWriteHalf,
    sync::Mutex,
    time::timeout,
};

use crate::handed::SetId;

/// Maximum length of a line from QEMU. The longest reply to a command used here has some kilobytes;
/// the greeting and events have hundreds of bytes.
pub(crate) const LINE_MAX_BYTES: usize = 1 << 20;
/// Size of the pipe between filter and crate.
const PIPE_BYTES: usize = 64 * 1024;
/// Time limit for QEMU's greeting. QEMU sends it after loading its libraries and creating the
/// machine, usually within 0.1 s; a busy host needs seconds.
const GREETING_LIMIT: Duration = Duration::from_secs(60);
/// Time limit of a command. The slowest flushes a drive to a busy host disk.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// The oldest supported QEMU version.
const OLDEST: (i64, i64) = (7, 2);

/// A relevant event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The machine has shut down.
    Shutdown {
        /// The cause in QEMU's terms (`guest-reset`).
        reason: String,
    },
    /// The guest has panicked, reported by a panic device.
    Panicked,
    /// A drive failed and the machine stopped.
    IoError {
        /// The node that failed.
        node: String,
        /// `read` or `write`.
        operation: String,
        /// Whether the host's disk is full.
        no_space: bool,
        /// The error message.
        reason: String,
    },
}

impl Notice {
    /// Converts a QMP event, if it is relevant.
    fn of(event: &Value) -> Option<Self> {
        let data = &event["data"];
        let text = |key: &str| data[key].as_str().unwrap_or("unknown").to_owned();
        match event["event"].as_str()? {
            "SHUTDOWN" => Some(Self::Shutdown { reason: text("reason") }),
            "GUEST_PANICKED" => Some(Self::Panicked),
            "BLOCK_IO_ERROR" if data["action"] == "stop" => Some(Self::IoError {
                node: text("node-name"),
                operation: text("operation"),
                no_space: data["nospace"] == true,
                reason: text("reason"),
            }),
            _ => None,
        }
    }
}

/// Errors of the QMP connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("the monitor's connection failed")]
    Io(#[from] io::Error),
    #[error("no greeting from the monitor within {} s", GREETING_LIMIT.as_secs())]
    NoGreeting,
    #[error("QEMU {major}.{minor} is too old, {}.{} is the oldest that works", OLDEST.0, OLDEST.1)]
    TooOld { major: i64, minor: i64 },
    #[error("no answer within {} s", COMMAND_LIMIT.as_secs())]
    NoAnswer,
    #[error("{0}")]
    Refused(String),
}

type Service = QapiService<QmpStreamTokio<OwnedWriteHalf>>;

/// The command `blockdev-add` with a node as JSON, in the form of the command line.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct BlockdevAdd(pub(crate) Value);

impl Command for BlockdevAdd {
    type Ok = qapi::Empty;
    const NAME: &'static str = "blockdev-add";
    const ALLOW_OOB: bool = false;
}

impl QmpCommand for BlockdevAdd {}

/// A connection to QEMU's monitor.
pub(crate) struct Qmp {
    service: Arc<Service>,
    /// The same connection for sending descriptors. The lock serializes senders: nothing may be
    /// sent between a descriptor and the command that uses it.
    socket: Mutex<UnixStream>,
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Qmp")
    }
}

impl Qmp {
    /// Negotiates the QMP session. `observer` receives the events, and is dropped at the end of the
    /// connection. Needs a tokio runtime.
    pub(crate) async fn negotiate(
        stream: UnixStream,
        observer: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Self, QmpError> {
        stream.set_nonblocking(true)?;
        let socket = Mutex::new(stream.try_clone()?);
        let (read, write) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let (filtered, for_qapi) = tokio::io::duplex(PIPE_BYTES);
        tokio::spawn(filter(BufReader::new(read), filtered, observer));
        let shake = async {
            let greeted = QmpStreamTokio::open_split(for_qapi, write).await?;
            let version = &greeted.capabilities.QMP.version.qemu;
            let (major, minor) = (version.major, version.minor);
            if (major, minor) < OLDEST {
                return Err(QmpError::TooOld { major, minor });
            }
            Ok(greeted.negotiate().await?)
        };
        let stream = timeout(GREETING_LIMIT, shake).await.map_err(|_| QmpError::NoGreeting)??;
        let (service, _reader) = stream.spawn_tokio();
        Ok(Self { service: Arc::new(service), socket })
    }

    /// Sends a descriptor, and adds it to a set.
    pub(crate) async fn add_fd(&self, set: SetId, file: BorrowedFd<'_>) -> Result<(), QmpError> {
        let command = qapi::qmp::add_fd { fdset_id: Some(set.0.into()), opaque: None };
        self.send_with(file, command).await
    }

    /// Sends a descriptor that a later command uses by this name.
    pub(crate) async fn send_named(
        &self,
        name: &str,
        file: BorrowedFd<'_>,
    ) -> Result<(), QmpError> {
        self.send_with(file, qapi::qmp::getfd { fdname: name.to_owned() }).await
    }

    /// Sends a descriptor and the command that takes it.
    async fn send_with<C>(&self, file: BorrowedFd<'_>, command: C) -> Result<(), QmpError>
    where
        C: Command + QmpCommand + Send + Sync + 'static,
        C::Ok: Send + 'static,
    {
        let socket = self.socket.lock().await;
        // A descriptor needs a byte to be sent with: a space between two commands has no meaning in
        // JSON. QEMU keeps the descriptor for the next command.
        let files = [file.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&files)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        // Never blocks: QEMU has answered all earlier commands, so the buffer is empty.
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b" ")], &rights, flags, None)
            .map_err(io::Error::from)?;
        self.send(command).await.map(drop)
    }

    /// Executes a command.
    pub(crate) async fn execute<C>(&self, command: C) -> Result<C::Ok, QmpError>
    where
        C: Command + QmpCommand + Send + Sync + 'static,
        C::Ok: Send + 'static,
    {
        let _turn = self.socket.lock().await;
        self.send(command).await
    }

    async fn send<C>(&self, command: C) -> Result<C::Ok, QmpError>
    where
        C: Command + QmpCommand + Send + Sync + 'static,
        C::Ok: Send + 'static,
    {
        let service = Arc::clone(&self.service);
        // The crate does not support cancelled commands: the next one would find its slot taken and
        // panic. So the command runs to its end even if the caller is cancelled or the time limit
        // expires.
        let task = tokio::spawn(async move { service.execute(command).await });
        match timeout(COMMAND_LIMIT, task).await {
            Err(_) => Err(QmpError::NoAnswer),
            Ok(Err(join)) => Err(QmpError::Refused(join.to_string())),
            Ok(Ok(Err(qapi::ExecuteError::Io(cause)))) => Err(QmpError::Io(cause)),
            Ok(Ok(Err(qapi::ExecuteError::Qapi(error)))) => Err(QmpError::Refused(error.desc)),
            Ok(Ok(Ok(answer))) => Ok(answer),
        }
    }
}

/// Reads lines from QEMU, handles events, and forwards everything else.
pub(crate) async fn filter(
    mut from_qemu: impl AsyncBufRead + Unpin,
    mut to_qapi: DuplexStream,
    mut observer: impl FnMut(Notice),
) {
    let mut line = Vec::new();
    loop {
        match read_line(&mut from_qemu, &mut line).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(cause) => {
                tracing::debug!(%cause, "the monitor's connection has ended");
                return;
            }
        }
        match serde_json::from_slice::<Value>(&line) {
            Ok(message) if message.get("event").is_some() => match Notice::of(&message) {
                Some(notice) => observer(notice),
                None => tracing::debug!(%message, "an event of QEMU"),
            },
            Ok(_) => {
                line.push(b'\n');
                // While the machine is dropped there is no reader, but events still matter.
                let _ = to_qapi.write_all(&line).await;
            }
            Err(cause) => tracing::warn!(%cause, "QEMU sent a line that is not JSON"),
        }
    }
}

/// Reads one line without its end. Returns `false` at the end of the stream; a line above the limit
/// is skipped.
async fn read_line(from: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut too_long = false;
    loop {
        let chunk = from.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(false);
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let used = part.len() + usize::from(end.is_some());
        too_long |= line.len() + part.len() > LINE_MAX_BYTES;
        if !too_long {
            line.extend_from_slice(part);
        }
        from.consume(used);
        if end.is_some() {
            if !too_long {
                return Ok(true);
            }
            tracing::warn!(limit = LINE_MAX_BYTES, "QEMU sent a line that is too long");
            line.clear();
            too_long = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, Write},
        sync::mpsc,
        thread,
    };

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob", "something-new"]}}"#;

    /// Simulates QEMU: sends the greeting, then answers every command with these lines.
    fn fake(greeting: &'static str, answers: Vec<String>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut out = theirs.try_clone().unwrap();
            writeln!(out, "{greeting}").unwrap();
            let mut commands = std::io::BufReader::new(theirs).lines();
            commands.next().unwrap().unwrap();
            writeln!(out, r#"{{"return": {{}}}}"#).unwrap();
            for answer in answers {
                commands.next().unwrap().unwrap();
                writeln!(out, "{answer}").unwrap();
            }
        });
        ours
    }

    #[tokio::test]
    async fn unknown_and_known_events_do_not_disturb_commands() {
        let status = r#"{"return": {"status": "running", "running": true}}"#;
        let long = format!(r#"{{"event": "{}"}}"#, "x".repeat(LINE_MAX_BYTES));
        let answer = [
            r#"{"event": "NEVER_HEARD_OF", "data": {"a": 1}, "timestamp": {"seconds": 1, "microseconds": 2}}"#,
            r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "never-heard-of-this-either"}}"#,
            &long,
            "no json at all",
            status,
        ]
        .join("\n");
        let (send, notices) = mpsc::channel();
        let stream = fake(GREETING, vec![answer, status.to_owned()]);
        let qmp = Qmp::negotiate(stream, move |notice| send.send(notice).unwrap()).await.unwrap();
        for _ in 0..2 {
            assert!(qmp.execute(qapi::qmp::query_status {}).await.unwrap().running);
        }
        let reason = "never-heard-of-this-either".to_owned();
        assert_eq!(notices.recv().unwrap(), Notice::Shutdown { reason });
    }

    #[tokio::test]
    async fn refusals_and_the_end_of_the_connection() {
        let refusal = r#"{"error": {"class": "GenericError", "desc": "no such node"}}"#;
        let qmp = Qmp::negotiate(fake(GREETING, vec![refusal.to_owned()]), |_| {}).await.unwrap();
        let error = qmp.execute(qapi::qmp::query_status {}).await.unwrap_err();
        assert_eq!(error.to_string(), "no such node");
        assert!(qmp.execute(qapi::qmp::query_status {}).await.is_err());
    }

    #[tokio::test]
    async fn an_old_qemu_is_refused() {
        let old = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 1, "major": 7}, "package": ""}, "capabilities": []}}"#;
        let error = Qmp::negotiate(fake(old, vec![]), |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("QEMU 7.1 is too old"), "{error}");
    }

    #[test]
    fn notices() {
        let notice = |text: &str| Notice::of(&serde_json::from_str(text).unwrap());
        assert_eq!(
            notice(
                r#"{"event": "BLOCK_IO_ERROR", "data": {"device": "", "node-name": "drive-a",
                "operation": "write", "action": "stop", "nospace": true, "reason": "full"}}"#
            ),
            Some(Notice::IoError {
                node: "drive-a".to_owned(),
                operation: "write".to_owned(),
                no_space: true,
                reason: "full".to_owned(),
            })
        );
        assert_eq!(notice(r#"{"event": "BLOCK_IO_ERROR", "data": {"action": "report"}}"#), None);
        assert_eq!(notice(r#"{"event": "GUEST_PANICKED"}"#), Some(Notice::Panicked));
        assert_eq!(notice(r#"{"event": 7}"#), None);
    }
}
