//! Progress events of writing outputs.

use std::path::Path;

/// An event of one output.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Work on an output began.
    Started {
        /// The format's name.
        format: &'static str,
        /// The output path.
        path: &'a Path,
        /// Bytes of input to process, if known.
        total: Option<u64>,
    },
    /// Input up to this point is in the output.
    Advanced {
        /// The output path.
        path: &'a Path,
        /// Bytes of input processed.
        done: u64,
    },
    /// The file is complete; its checksums are being computed.
    Digesting {
        /// The output path.
        path: &'a Path,
    },
    /// The format cannot represent something in the tree.
    Lost {
        /// The format's name.
        format: &'static str,
        /// The output path.
        path: &'a Path,
        /// What is lost, as a clause that ends with the consequence.
        what: &'static str,
        /// Number of affected files.
        count: u64,
        /// The first of them, printable and truncated.
        first: &'a str,
    },
    /// The output is complete, but has only a temporary name.
    Finished {
        /// The output path.
        path: &'a Path,
        /// The size of the output in bytes.
        bytes: u64,
    },
}

/// The caller's callbacks. Called from several threads.
pub trait Progress: Send + Sync {
    /// Receives an event. Must not block for long.
    fn event(&self, event: Event<'_>);

    /// Whether to cancel; polled often. Outputs that are not committed are then removed.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores events and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
