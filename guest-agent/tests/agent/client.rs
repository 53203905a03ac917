//! A small synchronous host end, for tests over a pair of sockets: one thread
//! reads and sorts frames by stream; credit is given back as data is taken.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use guest_agent::Agent;
use wire::{
    Channel, DATA_MAX_BYTES, Failure, Frame, FrameKind, INITIAL_CREDIT_BYTES, PROTOCOL_VERSION,
    Reply, Request,
};

type Senders = HashMap<u32, Sender<Frame>>;

/// A connection to an agent in this process.
pub(crate) struct Client {
    writer: Mutex<UnixStream>,
    /// `None` when the connection is over.
    streams: Arc<Mutex<Option<Senders>>>,
    next: Mutex<u32>,
    pub(crate) serving: thread::JoinHandle<()>,
}

/// One stream of it.
pub(crate) struct Stream<'a> {
    pub(crate) id: u32,
    client: &'a Client,
    frames: Receiver<Frame>,
    /// What the agent may still be sent.
    pub(crate) credit: u64,
    /// Whether data that arrives is given back as credit at once.
    pub(crate) gives_credit: bool,
}

/// Everything that a stream brought.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) main: Vec<u8>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) started: Option<u32>,
    pub(crate) reply: Option<Reply>,
}

impl Client {
    /// Starts an agent and says hello to it.
    pub(crate) fn connect() -> Self {
        let client = Self::connect_silently();
        let request = Request::Hello {
            version: PROTOCOL_VERSION,
            clock_unix_ns: 0,
            entropy: [0; wire::ENTROPY_BYTES],
        };
        let reply = client.call(&request).expect("hello");
        assert!(matches!(reply, Reply::Hello { version: PROTOCOL_VERSION, .. }));
        client
    }

    /// Starts an agent without a hello.
    pub(crate) fn connect_silently() -> Self {
        let (host, guest) = UnixStream::pair().expect("a pair of sockets");
        let serving = thread::spawn(move || {
            // Ends with an error in those tests that break the protocol.
            let _ = Agent::of_process().serve(guest);
        });
        let streams = Arc::new(Mutex::new(Some(Senders::new())));
        let mut reader = host.try_clone().expect("a second handle");
        let for_reader = Arc::clone(&streams);
        thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::read_from(&mut reader) {
                let streams = for_reader.lock().unwrap();
                if let Some(sender) = streams.as_ref().and_then(|map| map.get(&frame.stream)) {
                    let _ = sender.send(frame);
                }
            }
            // Whoever still waits learns that the connection is over.
            *for_reader.lock().unwrap() = None;
        });
        Self { writer: Mutex::new(host), streams, next: Mutex::new(1), serving }
    }

    pub(crate) fn send(&self, frame: &Frame) {
        let _ = frame.write_to(&mut *self.writer.lock().unwrap());
    }

    /// Writes bytes that need not be a frame.
    pub(crate) fn send_raw(&self, bytes: &[u8]) {
        let _ = self.writer.lock().unwrap().write_all(bytes);
    }

    /// Ends the connection.
    pub(crate) fn hang_up(&self) {
        let _ = self.writer.lock().unwrap().shutdown(std::net::Shutdown::Both);
    }

    /// Opens a stream.
    pub(crate) fn open(&self, request: &Request) -> Stream<'_> {
        let stream = self.open_without_sending();
        self.send(&Frame::request(stream.id, request).unwrap());
        stream
    }

    /// A stream whose request the caller sends.
    pub(crate) fn open_without_sending(&self) -> Stream<'_> {
        let id = {
            let mut next = self.next.lock().unwrap();
            *next += 1;
            *next - 1
        };
        let (sender, frames) = channel();
        if let Some(streams) = &mut *self.streams.lock().unwrap() {
            streams.insert(id, sender);
        }
        let credit = u64::from(INITIAL_CREDIT_BYTES);
        Stream { id, client: self, frames, credit, gives_credit: true }
    }

    /// A request without data.
    pub(crate) fn call(&self, request: &Request) -> Result<Reply, Failure> {
        self.open(request).finish().into_result()
    }
}

impl Stream<'_> {
    /// The next frame; `None` when the connection is over.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        let frame = self.frames.recv().ok()?;
        match frame.kind {
            FrameKind::Credit => self.credit += u64::from(frame.as_credit().unwrap()),
            FrameKind::Data if self.gives_credit => {
                let count = u32::try_from(frame.payload.len()).unwrap();
                self.client.send(&Frame::credit(self.id, frame.channel, count));
            }
            _ => {}
        }
        Some(frame)
    }

    /// Sends data as far as the agent's credit goes, waiting for more.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(DATA_MAX_BYTES) {
            while self.credit < piece.len() as u64 {
                let frame = self.frame().expect("credit");
                assert_eq!(frame.kind, FrameKind::Credit, "{frame:?}");
            }
            self.credit -= piece.len() as u64;
            self.client.send(&Frame::data(self.id, Channel::Main, piece.to_vec()));
        }
    }

    pub(crate) fn end(&self) {
        self.client.send(&Frame::end(self.id, Channel::Main));
    }

    /// Takes frames up to the final reply.
    pub(crate) fn finish(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(frame) = self.frame() {
            match (frame.kind, frame.channel) {
                (FrameKind::Data, Channel::Main) => outcome.main.extend(frame.payload),
                (FrameKind::Data, Channel::Stdout) => outcome.stdout.extend(frame.payload),
                (FrameKind::Data, Channel::Stderr) => outcome.stderr.extend(frame.payload),
                (FrameKind::Reply, _) => match frame.as_reply().unwrap() {
                    Reply::Started { pid } => outcome.started = Some(pid),
                    reply => {
                        assert!(reply.is_final());
                        outcome.reply = Some(reply);
                        break;
                    }
                },
                _ => {}
            }
        }
        if let Some(streams) = &mut *self.client.streams.lock().unwrap() {
            streams.remove(&self.id);
        }
        outcome
    }
}

impl Outcome {
    pub(crate) fn into_result(self) -> Result<Reply, Failure> {
        match self.reply.expect("the connection ended without a reply") {
            Reply::Failed(failure) => Err(failure),
            reply => Ok(reply),
        }
    }
}
