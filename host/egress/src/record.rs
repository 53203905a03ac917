//! What is told about each request of the guest.

use std::{net::SocketAddr, time::Duration};

use crate::protocol::Refusal;

/// One request of the guest, from its arrival to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Counts the requests of one [`crate::Egress`], from 1.
    pub id: u64,
    /// The host as the guest named it, printable and bounded.
    pub host: String,
    /// The port; `None` when only the name was asked for.
    pub port: Option<u16>,
    /// What became of it.
    pub outcome: Outcome,
    /// Bytes from the guest.
    pub bytes_up: u64,
    /// Bytes to the guest.
    pub bytes_down: u64,
    /// From the request to its end.
    pub duration: Duration,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The name exists and has this many addresses that may be reached.
    Resolved(u32),
    /// Connected; `None` for the address means through the user's proxy.
    Connected {
        /// The other side.
        address: Option<SocketAddr>,
        /// Why the connection broke, if it did not end in order.
        broken: Option<String>,
    },
    /// Not granted.
    Refused {
        /// The kind.
        kind: Refusal,
        /// In words.
        message: String,
    },
}

/// Is told about requests. Called from the runtime's threads: must not block.
pub trait Observer: Send + Sync {
    /// A connection is open; its record follows when it ends.
    fn opened(&self, id: u64, host: &str, port: u16) {
        let _ = (id, host, port);
    }

    /// A request has ended.
    fn ended(&self, record: &Record);
}

/// Writes records to the log and does nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogOnly;

impl Observer for LogOnly {
    fn ended(&self, _: &Record) {}
}
