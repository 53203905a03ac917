//! The connections that the guest opened during the running stage, for the stage's record.

use std::sync::{Arc, Mutex, PoisonError};

use store::Connection;

use super::policy::CONNECTIONS_MAX_BYTES;

/// Connections that have ended and are not part of a stage's record yet.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<Ledger>>);

/// Connections within a memory limit, and the number of connections beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) connections: Vec<Connection>,
    pub(crate) more: u64,
    bytes: usize,
}

impl Ledger {
    /// Creates a ledger from the connections of a record.
    pub(crate) fn resumed(connections: Vec<Connection>, more: u64) -> Self {
        let bytes = connections.iter().map(Connection::cost_bytes).sum();
        Self { connections, more, bytes }
    }

    fn push(&mut self, connection: Connection) {
        let bytes = self.bytes + connection.cost_bytes();
        if bytes > CONNECTIONS_MAX_BYTES {
            self.more += 1;
        } else {
            self.bytes = bytes;
            self.connections.push(connection);
        }
    }

    /// Adds the connections of another ledger.
    pub(crate) fn extend(&mut self, other: Self) {
        other.connections.into_iter().for_each(|connection| self.push(connection));
        self.more += other.more;
    }
}

impl Connections {
    /// Adds a connection that has ended.
    pub fn push(&self, connection: Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    pub(crate) fn take(&self) -> Ledger {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
