//! The thread of a device. It is started with the machine, before the sandbox is applied, and
//! waits; the transport passes queues to it and takes them back.
//!
//! ```text
//!          Activate                     Reset, answered
//! idle ───────────────► running ─────────────────────────► idle
//!                        │  ▲ queue events, the handler's own event
//!                        └──┘
//! ```

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

use super::virtio::{Activation, ActiveQueue, event};

/// The work of a device on its thread.
pub(crate) trait Handler: Send + 'static {
    /// Requests of the host to this device, such as a layer swap.
    type Request: Send;

    /// The driver has activated the device.
    fn activated(&mut self, _active: &mut Activation) {}

    /// A queue was notified, or [`Self::event`] is ready. Returns whether there is more work at
    /// once.
    fn process(&mut self, active: &mut Activation) -> bool;

    /// Handles a request of the host; the driver may be active or not.
    fn request(&mut self, request: Self::Request, active: Option<&mut Activation>);

    /// The driver has reset the device.
    fn deactivated(&mut self) {}

    /// An additional descriptor to poll while the driver is active.
    fn event(&self) -> Option<RawFd> {
        None
    }
}

enum Command<R> {
    Activate(Box<Activation>),
    Reset(SyncSender<Vec<ActiveQueue>>),
    Request(R),
    Quit,
}

/// The handle of a device's thread. Dropping it ends the thread.
pub(crate) struct Worker<R> {
    commands: Sender<Command<R>>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl<R> std::fmt::Debug for Worker<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

/// Sends requests of the host to a device.
pub(crate) struct Requests<R> {
    commands: Sender<Command<R>>,
    wake: Arc<EventFd>,
}

impl<R> std::fmt::Debug for Requests<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").finish_non_exhaustive()
    }
}

impl<R> Clone for Requests<R> {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<R> Requests<R> {
    /// Sends a request; returns whether the thread is alive.
    pub(crate) fn send(&self, request: R) -> bool {
        send(&self.commands, &self.wake, Command::Request(request))
    }
}

fn send<R>(commands: &Sender<Command<R>>, wake: &EventFd, command: Command<R>) -> bool {
    let sent = commands.send(command).is_ok();
    // Fails only if the count overflows; then the event is already signalled.
    let _ = wake.write(1);
    sent
}

impl<R: Send + 'static> Worker<R> {
    /// Starts the thread; `confine` runs on it before anything else.
    pub(crate) fn start(
        name: &str,
        confine: Box<dyn FnOnce() + Send>,
        handler: impl Handler<Request = R>,
    ) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel();
        let wake = Arc::new(event()?);
        let theirs = Arc::clone(&wake);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            confine();
            run(handler, &receiver, &theirs);
        })?;
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Passes the queues to the thread.
    pub(crate) fn activate(&self, activation: Activation) {
        send(&self.commands, &self.wake, Command::Activate(Box::new(activation)));
    }

    /// Takes the queues back; returns when the thread has released them.
    pub(crate) fn reset(&self) -> Vec<ActiveQueue> {
        let (done, wait) = mpsc::sync_channel(1);
        if !send(&self.commands, &self.wake, Command::Reset(done)) {
            return Vec::new();
        }
        // An error means that the thread is gone, and its queues with it.
        wait.recv().unwrap_or_default()
    }

    /// A sender of requests for other threads.
    pub(crate) fn requests(&self) -> Requests<R> {
        Requests { commands: self.commands.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<R> Drop for Worker<R> {
    fn drop(&mut self) {
        send(&self.commands, &self.wake, Command::Quit);
        if let Some(thread) = self.thread.take() {
            // A panicked worker has no state to clean up.
            let _ = thread.join();
        }
    }
}

fn run<H: Handler>(mut handler: H, commands: &Receiver<Command<H::Request>>, wake: &EventFd) {
    let mut active: Option<Box<Activation>> = None;
    let mut more = false;
    loop {
        let Ok(ready) = wait(wake, active.as_deref(), handler.event(), more) else { return };
        if ready.command {
            let _ = wake.read();
            for command in commands.try_iter() {
                match command {
                    Command::Activate(activation) => {
                        handler.activated(active.insert(activation));
                        more = true; // requests may already be in the rings
                    }
                    Command::Reset(done) => {
                        let queues = active.take().map(|active| active.queues);
                        handler.deactivated();
                        // The transport waits for this, unless it has died.
                        let _ = done.send(queues.unwrap_or_default());
                    }
                    Command::Request(request) => handler.request(request, active.as_deref_mut()),
                    Command::Quit => return,
                }
            }
        }
        if let Some(active) = active.as_deref_mut()
            && (more || ready.work)
        {
            for queue in &active.queues {
                let _ = queue.notify.read();
            }
            more = handler.process(active);
        } else {
            more = false;
        }
    }
}

struct Ready {
    command: bool,
    work: bool,
}

fn wait(
    wake: &EventFd,
    active: Option<&Activation>,
    event: Option<RawFd>,
    at_once: bool,
) -> io::Result<Ready> {
    let queues = active.map_or(&[][..], |active| &active.queues[..]);
    let event = event.filter(|_| active.is_some());
    let raw = [wake.as_raw_fd()]
        .into_iter()
        .chain(queues.iter().map(|queue| queue.notify.as_raw_fd()))
        .chain(event);
    let mut fds: Vec<PollFd<'_>> = raw
        // SAFETY: the descriptors belong to `wake`, `active` and the handler,
        // all of which outlive this call.
        .map(|fd| PollFd::new(unsafe { BorrowedFd::borrow_raw(fd) }, PollFlags::POLLIN))
        .collect();
    let timeout = if at_once { PollTimeout::ZERO } else { PollTimeout::NONE };
    loop {
        match poll(&mut fds, timeout) {
            Ok(_) => break,
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
    let command = ready.next().unwrap_or(false);
    Ok(Ready { command, work: ready.any(|ready| ready) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{counters::Counters, devices::virtio::Interrupt};
    use virtio_queue::{Queue, QueueT};
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    struct Recorder(Sender<&'static str>);

    impl Handler for Recorder {
        type Request = &'static str;
        fn activated(&mut self, _: &mut Activation) {
            self.0.send("activated").unwrap();
        }
        fn process(&mut self, _: &mut Activation) -> bool {
            self.0.send("process").unwrap();
            false
        }
        fn request(&mut self, request: &'static str, active: Option<&mut Activation>) {
            self.0.send(if active.is_some() { request } else { "idle request" }).unwrap();
        }
        fn deactivated(&mut self) {
            self.0.send("deactivated").unwrap();
        }
    }

    #[test]
    fn a_worker_takes_and_returns_queues() {
        let (sender, log) = mpsc::channel();
        let worker = Worker::start("test", Box::new(|| {}), Recorder(sender)).unwrap();
        let requests = worker.requests();
        assert!(requests.send("early"));
        assert_eq!(log.recv().unwrap(), "idle request");
        let notify = Arc::new(event().unwrap());
        worker.activate(Activation {
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4096)]).unwrap(),
            queues: vec![ActiveQueue {
                queue: Queue::new(8).unwrap(),
                notify: Arc::clone(&notify),
            }],
            interrupt: Interrupt::new(Arc::new(Counters::new().unwrap())).unwrap(),
        });
        assert_eq!(log.recv().unwrap(), "activated");
        assert_eq!(log.recv().unwrap(), "process");
        notify.write(1).unwrap();
        assert_eq!(log.recv().unwrap(), "process");
        requests.send("swap");
        assert_eq!(log.recv().unwrap(), "swap");
        assert_eq!(worker.reset().len(), 1);
        assert_eq!(log.recv().unwrap(), "deactivated");
        assert!(worker.reset().is_empty(), "the queues were taken before");
        assert_eq!(log.recv().unwrap(), "deactivated");
        drop(worker);
        assert!(log.recv().is_err(), "the thread has ended");
        assert!(!requests.send("late"));
    }
}
