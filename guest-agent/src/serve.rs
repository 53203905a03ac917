//! Serves connections. One thread reads a connection, opens its streams and passes frames to them;
//! each request that may take time has a thread; one thread writes.
//!
//! ```text
//!  host ─► reader ─┬─ request ─► thread per stream ─┬─► queue ─► writer ─► host
//!                  ├─ data, end, credit ─► stream ──┘
//!                  └─ resize: answered at once
//! ```
//!
//! The reader never waits for a stream or for the writer: a slow stream only blocks itself.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime, clock_settime};
use vsock::VsockStream;
use wire::{
    CrashKind, Failure, Frame, FrameError, FrameKind, PROTOCOL_VERSION, Reply, Request, STREAMS_MAX,
};

use crate::console::say;
use crate::failure::{Doing, failure};
use crate::files;
use crate::network::{self, Network};
use crate::parking::{self, Parked};
use crate::queue::Queue;
use crate::stream::Stream;
use crate::workers::Workers;
use crate::{block, mounts, shutdown, spawn, sys, tar};

/// The stack size of the thread that writes a connection, in bytes.
const THREAD_STACK_BYTES: usize = 128 * 1024;

/// The size of the read buffer of a connection, in bytes; larger payloads are read directly into
/// their own buffers.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// The guest's host name: one that every /etc/hosts contains, so that sudo does not warn.
const HOST_NAME: &str = "localhost";

/// How long to wait for the streams of all connections to end at a shutdown.
const STREAMS_END_WAIT: Duration = Duration::from_secs(5);

/// How long to wait for the host to close the connection before the power is turned off. The host
/// does so in well under a millisecond; if it does not, the power is turned off anyway.
const HANG_UP_WAIT: Duration = Duration::from_millis(200);

/// A byte stream to the host.
pub trait Transport: Read + Write + Send + Sized + 'static {
    /// Returns a second handle of the stream, for another thread.
    ///
    /// # Errors
    /// Fails if the descriptor cannot be duplicated.
    fn try_clone(&self) -> io::Result<Self>;

    /// Shuts the stream down in both directions, for all clones.
    fn hang_up(&self);
}

impl Transport for UnixStream {
    fn try_clone(&self) -> io::Result<Self> {
        Self::try_clone(self)
    }

    fn hang_up(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

impl Transport for VsockStream {
    fn try_clone(&self) -> io::Result<Self> {
        Self::try_clone(self)
    }

    fn hang_up(&self) {
        let _ = self.shutdown(std::net::Shutdown::Both);
    }
}

/// The agent, shared by its connections.
#[derive(Debug, Default)]
pub struct Agent {
    owns_machine: bool,
    connections: Mutex<Vec<Weak<Connection>>>,
    network: Mutex<Option<Network>>,
    parked: Mutex<Vec<Parked>>,
    workers: Workers,
}

#[derive(Debug)]
struct Connection {
    queue: Arc<Queue>,
    streams: Mutex<HashMap<u32, Arc<Stream>>>,
    /// Whether the reader has ended. A change is announced on `end`.
    ended: Mutex<bool>,
    end: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Agent {
    /// Creates the agent of a machine, which sets the clock and may turn the power off.
    #[must_use]
    pub fn of_machine() -> Arc<Self> {
        Arc::new(Self { owns_machine: true, ..Self::default() })
    }

    /// Unbinds the driver of disks, so that the machine can be saved.
    ///
    /// # Errors
    /// Fails if a disk does not exist, or if its driver cannot be unbound.
    pub(crate) fn park(&self, serials: &[String]) -> Result<(), Failure> {
        *lock(&self.parked) = parking::park(serials)?;
        Ok(())
    }

    /// Creates an agent that is an ordinary process, for tests. It does not change what belongs to
    /// the whole machine, and refuses to shut it down or to crash it.
    #[must_use]
    pub fn of_process() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn need_machine(&self, action: &str) -> Result<(), Failure> {
        match self.owns_machine {
            true => Ok(()),
            false => Err(failure(action, "this agent has no machine of its own")),
        }
    }

    /// Serves a connection until it ends.
    ///
    /// # Errors
    /// Fails if the connection fails, or if the host violates the protocol.
    pub fn serve(self: &Arc<Self>, transport: impl Transport) -> Result<(), FrameError> {
        let connection = Arc::new(Connection::new(transport.try_clone()?));
        let mut connections = lock(&self.connections);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Arc::downgrade(&connection));
        drop(connections);
        let queue = Arc::clone(&connection.queue);
        let writing = thread::Builder::new()
            .name("writer".into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || queue.run())?;
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, transport.try_clone()?);
        let result = self.read(&connection, &mut reader);
        for stream in lock(&connection.streams).values() {
            stream.abort();
        }
        *lock(&connection.ended) = true;
        connection.end.notify_all();
        connection.queue.close();
        transport.hang_up();
        let _ = writing.join();
        result
    }

    fn read(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        reader: &mut impl Read,
    ) -> Result<(), FrameError> {
        let mut greeted = false;
        while let Some(frame) = Frame::read_from(reader)? {
            if frame.kind != FrameKind::Request {
                let stream = lock(&connection.streams).get(&frame.stream).cloned();
                // Frames for a stream that has ended are dropped.
                if let Some(stream) = stream {
                    stream.accept(frame)?;
                }
                continue;
            }
            let id = frame.stream;
            let request = match frame.as_request() {
                Ok(request) => request,
                Err(error) => {
                    let reason = error.to_string();
                    connection.answer(id, Err(failure("understand the request", reason)))?;
                    continue;
                }
            };
            if let Request::Hello { version, clock_unix_ns, entropy } = &request {
                greeted = *version == PROTOCOL_VERSION;
                let reply = self.hello(*clock_unix_ns, entropy, greeted);
                connection.answer(id, reply)?;
                if !greeted {
                    connection.queue.flush();
                    let reason =
                        format!("the host speaks version {version}, the agent {PROTOCOL_VERSION}");
                    return Err(FrameError::Protocol(reason));
                }
            } else if greeted {
                self.request(connection, id, request)?;
            } else {
                let refused = failure("serve the request", "there was no hello yet");
                connection.answer(id, Err(refused))?;
            }
        }
        Ok(())
    }

    fn hello(
        &self,
        clock: u64,
        entropy: &[u8; wire::ENTROPY_BYTES],
        same_version: bool,
    ) -> Result<Reply, Failure> {
        if self.owns_machine && same_version {
            // The generator is seeded first: nothing may use random numbers before.
            sys::reseed(entropy).doing(|| "seed the random number generator")?;
            let time = nix::sys::time::TimeSpec::from(Duration::from_nanos(clock));
            clock_settime(ClockId::CLOCK_REALTIME, time).doing(|| "set the clock")?;
            nix::unistd::sethostname(HOST_NAME).doing(|| "set the host name")?;
        }
        let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).doing(|| "read the clock")?;
        let kernel = nix::sys::utsname::uname().doing(|| "ask for the kernel's release")?;
        Ok(Reply::Hello {
            version: PROTOCOL_VERSION,
            kernel: kernel.release().to_string_lossy().into_owned(),
            uptime_us: u64::try_from(Duration::from(uptime).as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// Answers a request that takes no time immediately, and starts a thread for any other.
    fn request(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        id: u32,
        request: Request,
    ) -> Result<(), FrameError> {
        match request {
            Request::Resize { stream, size } => {
                let found = lock(&connection.streams).get(&stream).cloned();
                let action = || format!("resize the terminal of stream {stream}");
                let resized = found
                    .ok_or_else(|| failure(action(), "it has ended"))
                    .and_then(|found| found.process.resize(size).doing(action));
                connection.answer(id, resized.map(|()| Reply::Done {}))
            }
            request => self.open_stream(connection, id, request),
        }
    }

    fn open_stream(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        id: u32,
        request: Request,
    ) -> Result<(), FrameError> {
        let mut streams = lock(&connection.streams);
        if streams.contains_key(&id) {
            return Err(FrameError::Protocol(format!("stream {id} is opened twice")));
        }
        if streams.len() >= STREAMS_MAX {
            drop(streams);
            let refused = failure("open a stream", format!("{STREAMS_MAX} are open"));
            return connection.answer(id, Err(refused));
        }
        let stream = Arc::new(Stream::new(id, Arc::clone(&connection.queue)));
        streams.insert(id, Arc::clone(&stream));
        drop(streams);
        let (agent, for_thread) = (Arc::clone(self), Arc::clone(connection));
        let started = self.workers.run(move || agent.run(&for_thread, &stream, request));
        if let Err(error) = started {
            lock(&connection.streams).remove(&id);
            let refused = Err(error).doing(|| "start a thread for the request");
            return connection.answer(id, refused);
        }
        Ok(())
    }

    /// Serves a stream from its request to its final reply.
    fn run(&self, connection: &Connection, stream: &Stream, request: Request) {
        let is_shutdown = matches!(request, Request::Shutdown { .. });
        let result = catch_unwind(AssertUnwindSafe(|| self.handle(connection, stream, request)));
        let result = result.unwrap_or_else(|_| Err(failure("serve the request", "a panic")));
        // The stream is removed from the table first: the final reply allows the host to open
        // another.
        lock(&connection.streams).remove(&stream.id());
        let _ = stream.reply(&result.unwrap_or_else(Reply::Failed));
        if is_shutdown && self.owns_machine {
            connection.queue.flush();
            let ended = lock(&connection.ended);
            let _ = connection.end.wait_timeout_while(ended, HANG_UP_WAIT, |ended| !*ended);
            shutdown::power_off();
        }
    }

    fn handle(
        &self,
        connection: &Connection,
        stream: &Stream,
        request: Request,
    ) -> Result<Reply, Failure> {
        let done = |()| Reply::Done {};
        match request {
            // These are answered by the reader.
            Request::Hello { .. } | Request::Resize { .. } => Ok(Reply::Done {}),
            Request::Spawn(request) => spawn::spawn(stream, &request),
            Request::PutFile { root, path, mode } => {
                files::put(stream, &root, &path, mode).map(done)
            }
            Request::GetFile { root, path, max_bytes } => {
                files::get(stream, &root, &path, max_bytes).map(done)
            }
            Request::PutTar { root, path } => tar::unpack(stream, &root, &path).map(done),
            Request::GetTar { root, path, exclude } => {
                tar::pack(stream, &root, &path, &exclude).map(done)
            }
            Request::File(operation) => files::operate(&operation),
            Request::BlockDevices {} => {
                block::list().map(|devices| Reply::BlockDevices { devices })
            }
            Request::BlockWrite { device, offset } => {
                block::write(stream, &device, offset).map(done)
            }
            Request::BlockReread { device } => {
                block::reread(&device).map(|devices| Reply::BlockDevices { devices })
            }
            Request::Mount(spec) => mounts::mount(&spec).map(done),
            Request::Unmount { path, lazy } => mounts::unmount(&path, lazy).map(done),
            Request::Mounts {} => mounts::list().map(|mounts| Reply::Mounts { mounts }),
            Request::Sync {} => {
                nix::unistd::sync();
                Ok(Reply::Done {})
            }
            Request::Freeze { paths } => mounts::freeze(&paths).map(done),
            Request::Thaw { paths } => mounts::thaw(&paths).map(done),
            Request::NetworkUp {} => self.network_up().map(done),
            Request::Unpark { count } => self.unpark(count).map(done),
            Request::Shutdown { clean } => self.shut_down(connection, stream, clean).map(done),
            Request::Crash { how } => self.crash(how).map(done),
        }
    }

    fn network_up(&self) -> Result<(), Failure> {
        self.need_machine("set up the network")?;
        let mut network = lock(&self.network);
        if network.is_none() {
            *network = Some(network::up()?);
        }
        Ok(())
    }

    fn unpark(&self, count: usize) -> Result<(), Failure> {
        self.need_machine("unpark disks")?;
        let mut parked = lock(&self.parked);
        let count = count.min(parked.len());
        parking::unpark(parked.drain(..count))
    }

    fn crash(&self, how: CrashKind) -> Result<(), Failure> {
        self.need_machine("crash")?;
        shutdown::crash(how)
    }

    fn shut_down(&self, connection: &Connection, own: &Stream, clean: bool) -> Result<(), Failure> {
        self.need_machine("shut down")?;
        say(if clean { "shutting down" } else { "powering off without unmounting" });
        if !clean {
            return Ok(());
        }
        // This comes first, as a process that waits for a frozen filesystem cannot be killed.
        shutdown::thaw_all();
        self.end_streams(connection, own);
        shutdown::leave_clean()
    }

    /// Ends all processes and all other streams, whose open files would keep filesystems busy.
    fn end_streams(&self, connection: &Connection, own: &Stream) {
        let connections: Vec<_> =
            lock(&self.connections).iter().filter_map(Weak::upgrade).collect();
        let is_own =
            |other: &Connection, id: u32| std::ptr::eq(other, connection) && id == own.id();
        for other in &connections {
            let streams = lock(&other.streams);
            streams.values().filter(|s| !is_own(other, s.id())).for_each(|s| s.abort());
        }
        shutdown::kill_all();
        let end = Instant::now() + STREAMS_END_WAIT;
        let open = || {
            let count = |other: &Arc<Connection>| {
                lock(&other.streams).keys().filter(|id| !is_own(other, **id)).count()
            };
            connections.iter().map(count).sum::<usize>()
        };
        while open() > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Connection {
    fn new(writer: impl Write + Send + 'static) -> Self {
        Self {
            queue: Arc::new(Queue::new(writer)),
            streams: Mutex::default(),
            ended: Mutex::default(),
            end: Condvar::new(),
        }
    }

    fn answer(&self, id: u32, result: Result<Reply, Failure>) -> Result<(), FrameError> {
        let frame = Frame::reply(id, &result.unwrap_or_else(Reply::Failed))?;
        Ok(self.queue.push_control(frame).map_err(io::Error::from)?)
    }
}
