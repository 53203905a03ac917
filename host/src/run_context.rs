//! The context of a run, in addition to its settings: the observer of its events, and the signal
//! that cancels it.

use std::fmt;

use engine::events::{Event, SharedObserver};
use tokio::sync::watch;

/// The observer of a run and the signal that stops it.
#[derive(Clone)]
pub struct RunContext {
    /// The observer that receives the events of the run.
    pub observer: SharedObserver,
    /// The cancellation signal: becomes true when the run must stop.
    pub cancel: watch::Receiver<bool>,
}

impl fmt::Debug for RunContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext").finish_non_exhaustive()
    }
}

impl RunContext {
    /// Shows a message to the user.
    pub(crate) fn say(&self, text: impl Into<String>) {
        self.observer.event(&Event::Message { text: text.into() });
    }

    /// Shows a warning to the user.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.observer.event(&Event::Warning { text: text.into() });
    }
}
