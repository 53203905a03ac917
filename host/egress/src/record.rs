//! Records of the guest's connections.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::Exchange;

/// A connection that has ended, or a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The host as named by the guest, printable and truncated.
    pub host: String,
    /// The port; 0 for a lookup of a name.
    pub port: u16,
    /// The connected address; `None` behind the user's proxy.
    pub address: Option<IpAddr>,
    /// Bytes sent to the server.
    pub sent: u64,
    /// Bytes received from the server.
    pub received: u64,
    /// Time from the request to the end.
    pub elapsed: Duration,
    /// The reason of the refusal, if it was refused.
    pub refused: Option<String>,
    /// The error, if the connection did not end in order.
    pub broken: Option<String>,
    /// The exchanges of plain HTTP on port 80.
    pub http: Vec<Exchange>,
    /// The number of further exchanges, which are not recorded.
    pub http_more: u64,
}

/// Receives records from any task; must not block.
pub type OnRecord = Arc<dyn Fn(&Record) + Send + Sync>;
