//! The serial console: an 8250 UART whose output goes to the parent process.
//!
//! Each character costs an exit, so the guest is configured to use it for panics and the agent's
//! own errors only. Output that the parent does not accept at once is dropped and counted: a guest
//! that floods its console slows down itself, never the host.

use std::{
    fs::File,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use vm_superio::{Serial, SerialState, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::EventFd;

use crate::counters::{Counter, Counters};

/// The kernel's panic message; the only text searched for, to distinguish a panic from a reboot.
const PANIC: &[u8] = b"Kernel panic - not syncing";

/// The port's interrupt.
#[derive(Debug)]
pub(crate) struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The destination of the characters.
#[derive(Debug)]
pub(crate) struct Output {
    sink: Option<File>,
    /// Number of characters of [`PANIC`] matched so far.
    matched: usize,
    panicked: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.counters.add(Counter::ConsoleBytes, bytes.len() as u64);
        for byte in bytes {
            self.matched = match PANIC.get(self.matched) {
                Some(expected) if expected == byte => self.matched + 1,
                _ => usize::from(*byte == PANIC[0]),
            };
            if self.matched == PANIC.len() {
                self.panicked.store(true, Ordering::Relaxed);
                self.matched = 0;
            }
        }
        if let Some(sink) = &mut self.sink
            && let Err(error) = sink.write_all(bytes)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.sink = None; // the parent is gone or going
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The registers of the port, as they are saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
#[serde(deny_unknown_fields)]
pub(crate) struct ConsoleState {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
}

/// The serial port.
#[derive(Debug)]
pub(crate) struct Console {
    port: Serial<Line, NoEvents, Output>,
}

impl Console {
    /// A console that writes to `sink`, a non-blocking pipe, and reports a
    /// panic in `panicked`.
    pub(crate) fn new(
        line: EventFd,
        sink: Option<File>,
        panicked: Arc<AtomicBool>,
        counters: Arc<Counters>,
    ) -> Self {
        let output = Output { sink, matched: 0, panicked, counters };
        Self { port: Serial::new(Line(line), output) }
    }

    /// The same with the registers of a saved console; raises its interrupt if one is pending.
    pub(crate) fn restore(self, line: EventFd, state: &ConsoleState) -> io::Result<Self> {
        let state = SerialState {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: Vec::new(),
        };
        let output = self.port.into_writer();
        let port = Serial::from_state(&state, Line(line), NoEvents, output);
        let port = port.map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { port })
    }

    /// The registers. The port has no input, so its receive buffer is not among them.
    pub(crate) fn state(&self) -> ConsoleState {
        let state = self.port.state();
        ConsoleState {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
        }
    }

    /// A write to one of the eight ports.
    pub(crate) fn write(&mut self, register: u8, data: &[u8]) {
        for byte in data {
            // Output never fails; an interrupt that failed is already pending.
            let _ = self.port.write(register, *byte);
        }
    }

    /// A read of one of the eight ports.
    pub(crate) fn read(&mut self, register: u8, data: &mut [u8]) {
        for byte in data {
            *byte = self.port.read(register);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::devices::virtio::event;

    fn console() -> (Console, File, Arc<AtomicBool>) {
        let (reader, writer) = io::pipe().unwrap();
        let panicked = Arc::new(AtomicBool::new(false));
        let console = Console::new(
            event().unwrap(),
            Some(File::from(std::os::fd::OwnedFd::from(writer))),
            Arc::clone(&panicked),
            Arc::new(Counters::new().unwrap()),
        );
        (console, File::from(std::os::fd::OwnedFd::from(reader)), panicked)
    }

    #[test]
    fn characters_arrive_and_a_panic_is_noticed() {
        let (mut console, mut reader, panicked) = console();
        console.write(0, b"KKernel panic - not");
        assert!(!panicked.load(Ordering::Relaxed));
        console.write(0, b" syncing: x");
        assert!(panicked.load(Ordering::Relaxed));
        drop(console);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "KKernel panic - not syncing: x");
    }

    #[test]
    fn registers_are_restored_and_a_pending_interrupt_is_raised() {
        const INTERRUPT_ENABLE: u8 = 1;
        const SCRATCH: u8 = 7;
        let (mut console, mut reader, _) = console();
        console.write(SCRATCH, &[0x5a]);
        console.write(INTERRUPT_ENABLE, &[2]);
        let state = console.state();
        let text = serde_json::to_vec(&state).unwrap();
        let line = event().unwrap();
        let saved = serde_json::from_slice(&text).unwrap();
        let mut console = console.restore(line.try_clone().unwrap(), &saved).unwrap();
        assert_eq!(console.state(), state);
        assert!(line.read().is_ok(), "the transmitter was empty");
        console.write(0, b"on");
        drop(console);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "on");
    }

    #[test]
    fn the_transmitter_is_always_ready_and_a_gone_reader_is_no_error() {
        let (mut console, reader, _) = console();
        drop(reader);
        console.write(0, b"into the void");
        let mut status = [0];
        console.read(5, &mut status);
        assert_eq!(status[0] & 0x60, 0x60);
    }
}
