//! The guest's connections of the stage that runs, for the stage's record.

use std::sync::{Arc, Mutex, PoisonError};

use store::Connection;

use super::policy::CONNECTIONS_MAX_BYTES;

/// Connections that have ended and belong to no stage yet.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<Ledger>>);

/// Connections within a budget, and the number of those beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) connections: Vec<Connection>,
    pub(crate) more: u64,
    bytes: usize,
}

impl Ledger {
    /// The connections that a record has.
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

    /// Adds those of another ledger.
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
