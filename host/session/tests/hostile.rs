//! An agent that keeps to the framing and to nothing else.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use machine::{
    Backend, ConnectDecision, DriveSerial, HaltReason, Machine, MachineError, MachineSpec,
    SavedMachine,
};
use session::{BootOptions, Session, boot};
use wire::{Channel, DATA_MAX_BYTES, Frame, INITIAL_CREDIT_BYTES, Reply, Request};

/// Much more than any limit lets through.
const FLOOD_BYTES: u64 = 64 << 20;
/// What the kernel's buffers of a socket pair and the reader's own take.
const BUFFERS_MAX_BYTES: u64 = 2 << 20;

/// What the agent sends over and over in answer to a request.
#[derive(Debug, Clone, Copy)]
enum Flood {
    Data,
    SmallData,
    Started,
    End,
    Done,
}

impl Flood {
    fn frame(self, stream: u32) -> Frame {
        match self {
            Self::Data => Frame::data(stream, Channel::Main, vec![7; DATA_MAX_BYTES]),
            Self::SmallData => Frame::data(stream, Channel::Main, vec![7]),
            Self::Started => Frame::reply(stream, &Reply::Started { pid: 1 }).unwrap(),
            Self::End => Frame::end(stream, Channel::Stderr),
            Self::Done => Frame::reply(stream, &Reply::Done {}).unwrap(),
        }
    }
}

#[derive(Debug, Clone)]
struct Hostile {
    flood: Flood,
    sent: Arc<AtomicU64>,
}

#[async_trait::async_trait]
impl Backend for Hostile {
    fn name(&self) -> &'static str {
        "hostile"
    }

    async fn saving_identity(&self, _: &MachineSpec) -> Option<String> {
        None
    }

    async fn start(&self, _: MachineSpec) -> Result<Box<dyn Machine>, MachineError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl Machine for Hostile {
    async fn connect(&self, _: u32) -> Result<UnixStream, MachineError> {
        let (host, guest) = UnixStream::pair().unwrap();
        let this = self.clone();
        std::thread::spawn(move || this.answer(guest));
        Ok(host)
    }

    async fn wait(&self) -> HaltReason {
        std::future::pending().await
    }

    async fn kill(&self) {}

    fn console_tail(&self) -> String {
        String::new()
    }

    async fn push_layer(&self, _: &DriveSerial, _: &Path) -> Result<(), MachineError> {
        Ok(())
    }

    async fn save(&self, _: &SavedMachine) -> Result<(), MachineError> {
        Err(MachineError::Ended(HaltReason::Killed))
    }

    fn confinement(&self) -> Vec<machine::Confinement> {
        Vec::new()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

impl Hostile {
    fn answer(&self, mut socket: UnixStream) {
        while let Ok(Some(frame)) = Frame::read_from(&mut socket) {
            match frame.as_request() {
                Ok(Request::Hello { .. }) => {
                    let hello = Reply::Hello {
                        version: wire::PROTOCOL_VERSION,
                        kernel: "x".into(),
                        uptime_us: 1,
                    };
                    Frame::reply(frame.stream, &hello).unwrap().write_to(&mut socket).unwrap();
                }
                Ok(_) => {
                    let one = self.flood.frame(frame.stream).to_bytes().unwrap();
                    let batch = one.repeat(DATA_MAX_BYTES.div_ceil(one.len()));
                    let mut sent = 0;
                    while sent < FLOOD_BYTES {
                        if socket.write_all(&batch).is_err() {
                            return;
                        }
                        sent += batch.len() as u64;
                        self.sent.fetch_add(batch.len() as u64, Ordering::SeqCst);
                    }
                }
                Err(_) => {}
            }
        }
    }
}

async fn booted(backend: &Hostile) -> Session {
    let spec = MachineSpec {
        architecture: machine::MachineArchitecture::Amd64,
        name: "x".into(),
        vcpus: 1,
        memory_mib: 512,
        kernel: "/".into(),
        initrd: "/".into(),
        cmdline: vec![],
        drives: vec![],
        on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
        verbose_console: false,
        start: machine::Start::Boot,
        run_dir: "/".into(),
    };
    boot(backend, spec, &BootOptions::default()).await.unwrap()
}

/// Opens a download that nobody reads until the agent has sent all it can; gives
/// what the reader then says, and how much the agent got rid of.
fn flooded(flood: Flood) -> (String, u64) {
    let sent = Arc::new(AtomicU64::new(0));
    let backend = Hostile { flood, sent: Arc::clone(&sent) };
    // The queue of 16 chunks before the reader, and the inbox behind it.
    let bound = 16 * DATA_MAX_BYTES as u64 + 2 * u64::from(INITIAL_CREDIT_BYTES) + (2 << 20);
    let said = memory_bound::within(bound, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let session = booted(&backend).await;
            let mut tar = session.get_tar("/", "/", vec![]).await.unwrap();
            // A second request shows that the connection has ended.
            let ended = session.sync().await;
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; DATA_MAX_BYTES];
                loop {
                    match tar.read(&mut buffer) {
                        Ok(0) => return "ended well".to_owned(),
                        Ok(_) => {}
                        Err(error) => return error.to_string(),
                    }
                }
            });
            let read = read.await.unwrap();
            match ended {
                Ok(reply) => format!("{read}; {reply:?}"),
                Err(error) => format!("{read}; {error}"),
            }
        })
    });
    (said, sent.load(Ordering::SeqCst))
}

#[test]
fn data_over_credit_ends_the_connection() {
    for flood in [Flood::Data, Flood::SmallData] {
        let (said, sent) = flooded(flood);
        assert!(said.contains("more data than was allowed on stream"), "{flood:?}: {said}");
        // A frame of one byte is 13 bytes long.
        let most = 13 * 3 * u64::from(INITIAL_CREDIT_BYTES) + BUFFERS_MAX_BYTES;
        assert!(sent < most, "{flood:?}: {sent}");
    }
}

#[test]
fn replies_and_ends_without_number_end_the_connection() {
    for (flood, complaint) in [
        (Flood::Started, "a second answer that is not the last"),
        (Flood::End, "a channel that goes on after its end"),
    ] {
        let (said, sent) = flooded(flood);
        assert!(said.contains(complaint), "{flood:?}: {said}");
        assert!(sent < BUFFERS_MAX_BYTES, "{flood:?}: {sent}");
    }
}

#[test]
fn frames_of_a_stream_that_is_over_are_dropped() {
    let (said, sent) = flooded(Flood::Done);
    assert_eq!(said, "ended well; ()");
    assert!(sent > FLOOD_BYTES);
}
