//! What is told about each connection of the guest.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::Exchange;

/// A connection that has ended, or a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The host as the guest named it, printable and bounded.
    pub host: String,
    /// The port; 0 when only a name was asked for.
    pub port: u16,
    /// The address that was connected to; none behind the user's proxy.
    pub address: Option<IpAddr>,
    /// Bytes to the server.
    pub sent: u64,
    /// Bytes from the server.
    pub received: u64,
    /// From the request to the end.
    pub elapsed: Duration,
    /// Why it was refused, if it was.
    pub refused: Option<String>,
    /// Why it broke, if it did not end in order.
    pub broken: Option<String>,
    /// What was fetched, when it was by plain HTTP on port 80.
    pub http: Vec<Exchange>,
    /// Exchanges beyond those, of which only the number is known.
    pub http_more: u64,
}

/// Takes records, from any task, without blocking.
pub type OnRecord = Arc<dyn Fn(&Record) + Send + Sync>;
