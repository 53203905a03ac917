//! How far the writing is, told to whoever shows it.

use std::path::Path;

/// Something that happened to one output.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Work on an output began.
    Started {
        /// The format's name.
        format: &'static str,
        /// Where it goes.
        path: &'a Path,
        /// Bytes of input it will see, when known.
        total: Option<u64>,
    },
    /// Input up to here is in the output.
    Advanced {
        /// Where the output goes.
        path: &'a Path,
        /// Bytes of input done.
        done: u64,
    },
    /// The file is complete; its checksums are being made.
    Digesting {
        /// Where the output goes.
        path: &'a Path,
    },
    /// The format cannot hold something of the tree.
    Lost {
        /// The format's name.
        format: &'static str,
        /// Where the output goes.
        path: &'a Path,
        /// What is lost, as a clause that ends with what becomes of it.
        what: &'static str,
        /// How many files lose it.
        count: u64,
        /// The first of them, printable and bounded.
        first: &'a str,
    },
    /// The output is complete under its temporary name.
    Finished {
        /// Where the output goes.
        path: &'a Path,
        /// Its size.
        bytes: u64,
    },
}

/// The caller's side of the work. Called from several threads.
pub trait Progress: Send + Sync {
    /// Is told what happened. Must not block for long.
    fn event(&self, event: Event<'_>);

    /// Whether to stop; asked often. Outputs not yet committed then vanish.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Shows nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
