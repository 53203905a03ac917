//! The output of the VMM process: the guest's console, and its own error messages.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::lock;

/// The tail of a stream.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    max: usize,
}

impl Tail {
    pub(crate) fn new(max: usize) -> Self {
        Self { bytes: VecDeque::new(), max }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.max)..];
        let over = (self.bytes.len() + bytes.len()).saturating_sub(self.max);
        self.bytes.drain(..over);
        self.bytes.extend(bytes);
    }

    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Reads a pipe into a tail until it is closed.
pub(crate) fn follow(
    mut pipe: impl Read + Send + 'static,
    tail: Arc<Mutex<Tail>>,
) -> io::Result<JoinHandle<()>> {
    let body = move || {
        let mut buffer = [0; 4096];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => lock(&tail).push(&buffer[..len]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    };
    thread::Builder::new().name("microvm-output".to_owned()).spawn(body)
}

/// The tail of the process's own error messages.
#[derive(Debug, Default)]
pub(crate) struct LogTail {
    pub(crate) tail: Option<Arc<Mutex<Tail>>>,
    pub(crate) reader: Option<JoinHandle<()>>,
}

impl LogTail {
    /// The whole tail, once the process is dead: the reader ends when the pipe closes. It waits
    /// only briefly, in case another process holds the pipe open.
    pub(crate) fn last(&self) -> String {
        const MOMENT: Duration = Duration::from_millis(500);
        const STEP: Duration = Duration::from_millis(5);
        let started = Instant::now();
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished())
            && started.elapsed() < MOMENT
        {
            thread::sleep(STEP);
        }
        self.tail.as_ref().map(|tail| lock(tail).text()).unwrap_or_default()
    }
}
