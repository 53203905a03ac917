//! Moves the bytes of a process until it has ended and its output is complete.
//!
//! A daemon that a script leaves behind keeps the script's pipes open, and so does a `tee` that
//! must still write the script's output. So after the end of the script, the pump waits until there
//! was no output for [`OUTPUT_GRACE`], and for [`OUTPUT_GRACE_MAX`] at most. Then it sends what is
//! in the pipes and closes them. A daemon that writes later gets SIGPIPE.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use wire::{Channel, DATA_MAX_BYTES, ExitStatus};

use crate::process::{Ends, kill_session};
use crate::stream::{Inbound, Stream};
use crate::sys;

/// How long to wait for more output while the outputs are open after the process has ended. Long
/// enough for a filter to be scheduled on a slow emulated CPU, short enough that a script that
/// starts a daemon delays the build by only a second.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// How long to wait for output in total after the process has ended: a daemon that continues to
/// write must not block the build.
const OUTPUT_GRACE_MAX: Duration = Duration::from_secs(30);

/// The character that ends a terminal's input: the default VEOF character.
const END_OF_INPUT: u8 = 4;

/// An output of the process, which is sent to the host.
#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    channel: Channel,
    /// The number of bytes still to send after the grace period; `None` before its end.
    last: Option<usize>,
}

/// Standard input of the process, which comes from the host.
#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    pending: Vec<u8>,
    position: usize,
    terminal: bool,
    ending: bool,
}

pub(crate) struct Pump<'a> {
    stream: &'a Stream,
    pid: Pid,
    outputs: Vec<Output>,
    input: Option<Input>,
    deadline: Option<Instant>,
    /// The end of the grace period; set when the process has ended.
    grace_end: Option<Instant>,
    /// The latest time to which the end of the grace period may be postponed.
    grace_limit: Option<Instant>,
    timed_out: bool,
    ended: Option<(i32, u64)>,
    buffer: Vec<u8>,
}

/// The result of a poll.
#[derive(Default)]
struct Ready {
    process: bool,
    wake: bool,
    input: bool,
    outputs: [bool; 2],
    /// Outputs that have ended and contain no more data.
    ended: [bool; 2],
}

impl<'a> Pump<'a> {
    pub(crate) fn new(stream: &'a Stream, ends: Ends, pid: Pid, deadline: Option<Instant>) -> Self {
        let output = |channel| move |fd| Output { fd, channel, last: None };
        let stderr = ends.stderr.map(output(Channel::Stderr));
        let input = ends.input.map(|fd| Input {
            fd,
            pending: Vec::new(),
            position: 0,
            terminal: ends.terminal,
            ending: false,
        });
        Self {
            stream,
            pid,
            outputs: [output(Channel::Stdout)(ends.stdout)].into_iter().chain(stderr).collect(),
            input,
            deadline,
            grace_end: None,
            grace_limit: None,
            timed_out: false,
            ended: None,
            buffer: Vec::new(),
        }
    }

    pub(crate) fn run(mut self, pidfd: &OwnedFd) -> nix::Result<(ExitStatus, u64)> {
        loop {
            self.feed();
            self.check_clocks();
            if let Some((status, cpu_ms)) = self.ended
                && self.outputs.is_empty()
            {
                return Ok((self.status(status)?, cpu_ms));
            }
            let ready = self.poll(pidfd)?;
            if ready.wake {
                let _ = self.stream.wake()?.read();
            }
            if ready.input {
                self.write_input();
            }
            // In reverse, so that the removal of one does not change the indices of the others.
            for index in (0..self.outputs.len()).rev() {
                if ready.ended[index] || ready.outputs[index] && !self.read_output(index) {
                    self.outputs.remove(index);
                }
            }
            if ready.process && self.ended.is_none() {
                self.ended = Some(self.stream.process.reap(self.pid)?);
                self.grace_limit = Some(Instant::now() + OUTPUT_GRACE_MAX);
                self.put_off_grace();
                self.input = None;
            }
        }
    }

    fn status(&self, raw: i32) -> nix::Result<ExitStatus> {
        Ok(match WaitStatus::from_raw(self.pid, raw)? {
            _ if self.timed_out => ExitStatus::TimedOut,
            WaitStatus::Exited(_, code) => ExitStatus::Code(code),
            WaitStatus::Signaled(_, signal, _) => ExitStatus::Signal(signal as i32),
            _ => ExitStatus::Code(-1),
        })
    }

    fn check_clocks(&mut self) {
        let now = Instant::now();
        let late = self.deadline.is_some_and(|deadline| now >= deadline);
        let gone = self.stream.is_aborted();
        if self.ended.is_none() && !self.timed_out && (late || gone) {
            self.timed_out = true;
            kill_session(self.pid);
        }
        if gone {
            self.outputs.clear();
        }
        if self.grace_end.is_some_and(|end| now >= end) && !self.wait_for_credit(now) {
            for output in &mut self.outputs {
                let waiting = || sys::bytes_waiting(&output.fd).unwrap_or(0);
                output.last.get_or_insert_with(waiting);
            }
        }
        self.outputs.retain(|output| output.last != Some(0));
    }

    fn poll(&self, pidfd: &OwnedFd) -> nix::Result<Ready> {
        let mut fds = vec![PollFd::new(self.stream.wake()?.as_fd(), PollFlags::POLLIN)];
        let process = self.ended.is_none().then(|| {
            fds.push(PollFd::new(pidfd.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let input = self.input.as_ref().filter(|input| input.wants_to_write()).map(|input| {
            fds.push(PollFd::new(input.fd.as_fd(), PollFlags::POLLOUT));
            fds.len() - 1
        });
        let mut outputs = [None; 2];
        for (output, place) in self.outputs.iter().zip(&mut outputs) {
            // An output without credit is not polled: a pipe that hung up would wake the pump all
            // the time.
            if self.stream.credit(output.channel) > 0 {
                fds.push(PollFd::new(output.fd.as_fd(), PollFlags::POLLIN));
                *place = Some(fds.len() - 1);
            }
        }
        match poll(&mut fds, self.timeout()) {
            Err(Errno::EINTR) => return Ok(Ready::default()),
            other => other?,
        };
        let is_ready = |index: usize| fds[index].any().unwrap_or(true);
        let has_ended = |index: usize| {
            // A terminal that hangs up with unread bytes reports POLLIN, too.
            fds[index].revents() == Some(PollFlags::POLLHUP)
        };
        Ok(Ready {
            ended: outputs.map(|place| place.is_some_and(has_ended)),
            wake: is_ready(0),
            process: process.is_some_and(is_ready),
            input: input.is_some_and(is_ready),
            outputs: outputs.map(|place| place.is_some_and(is_ready)),
        })
    }

    /// Postpones the end of the grace period if an output waits for credit of the host. Returns
    /// whether it did.
    fn wait_for_credit(&mut self, now: Instant) -> bool {
        let held_up = self
            .outputs
            .iter()
            .any(|output| output.last.is_none() && self.stream.credit(output.channel) == 0);
        let waits = held_up && self.grace_limit.is_some_and(|limit| now < limit);
        if waits {
            self.put_off_grace();
        }
        waits
    }

    /// Starts the grace period again, up to its limit.
    fn put_off_grace(&mut self) {
        self.grace_end = self.grace_limit.map(|limit| limit.min(Instant::now() + OUTPUT_GRACE));
    }

    /// Returns the time to the next deadline: the process's time limit or the end of the grace
    /// period.
    fn timeout(&self) -> PollTimeout {
        let deadline = self.deadline.filter(|_| self.ended.is_none() && !self.timed_out);
        let waiting = self.outputs.iter().any(|output| output.last.is_none());
        let grace = self.grace_end.filter(|_| waiting);
        let Some(next) = deadline.into_iter().chain(grace).min() else {
            return PollTimeout::NONE;
        };
        // One millisecond is added, as the conversion to milliseconds rounds down.
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    /// Takes the next bytes for standard input if the previous ones are written. Bytes for a closed
    /// input are dropped, so that the host is not blocked.
    fn feed(&mut self) {
        while self.input.as_ref().is_none_or(|input| !input.wants_to_write()) {
            match (self.stream.try_receive(), &mut self.input) {
                (Inbound::Nothing, _) | (Inbound::Ended, None) => return,
                (Inbound::Bytes(_), None) => {}
                (Inbound::Bytes(bytes), Some(input)) => {
                    (input.pending, input.position) = (bytes, 0)
                }
                (Inbound::Ended, Some(input)) if input.terminal && !input.ending => {
                    input.ending = true;
                    (input.pending, input.position) = (vec![END_OF_INPUT], 0);
                }
                (Inbound::Ended, Some(_)) => self.input = None,
            }
        }
    }

    fn write_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        match nix::unistd::write(&input.fd, &input.pending[input.position..]) {
            Ok(count) => input.position += count,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The process has closed its input.
            Err(_) => self.input = None,
        }
    }

    /// Sends the available bytes of an output to the host; returns `false` at the end of the
    /// output.
    fn read_output(&mut self, index: usize) -> bool {
        let output = &mut self.outputs[index];
        if self.buffer.is_empty() {
            self.buffer = vec![0; DATA_MAX_BYTES];
        }
        let room = self.stream.credit(output.channel).min(output.last.unwrap_or(usize::MAX));
        let room = room.min(self.buffer.len());
        let count = match nix::unistd::read(&output.fd, &mut self.buffer[..room]) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return output.last.is_none(),
            // A terminal returns EIO when the last process has closed it.
            Err(_) => 0,
        };
        if count == 0 {
            return false;
        }
        output.last = output.last.map(|last| last - count);
        let channel = output.channel;
        self.put_off_grace();
        let bytes = if count > DATA_MAX_BYTES / 2 {
            let mut full = std::mem::take(&mut self.buffer);
            full.truncate(count);
            full
        } else {
            self.buffer[..count].to_vec()
        };
        self.stream.send(channel, bytes).is_ok()
    }
}

impl Input {
    fn wants_to_write(&self) -> bool {
        self.position < self.pending.len()
    }
}
