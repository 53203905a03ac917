//! The trait of all renderers of events, and the types that they share.

use std::time::{Duration, SystemTime};

use engine::events::Event;

use super::{
    complaint::Complaint,
    utc::Utc,
    words::{DEBUG_DETAIL, DEBUG_TRACE, Weight},
};

/// The time at which an event is rendered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    /// The time since the view of the run was opened.
    pub(crate) elapsed: Duration,
    /// The wall-clock time.
    pub(crate) wall: SystemTime,
}

impl Stamp {
    pub(super) fn utc(&self) -> Utc {
        self.wall.into()
    }
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verbosity {
    /// Whether only warnings and errors are shown.
    pub(crate) quiet: bool,
    /// Whether the output of scripts is shown while they run.
    pub(crate) output: bool,
    /// The level of `--debug`.
    pub(crate) debug: u32,
    /// Whether messages are wrapped.
    pub(crate) wrap: bool,
}

impl Verbosity {
    pub(super) fn shows(self, weight: Weight) -> bool {
        match weight {
            Weight::Trace => self.debug >= DEBUG_TRACE,
            Weight::Detail => self.debug >= DEBUG_DETAIL,
            Weight::Closer => self.output || self.debug >= DEBUG_DETAIL,
            Weight::Output => self.output,
            Weight::Progress | Weight::Remark => !self.quiet,
            Weight::Warning => true,
        }
    }
}

/// A way of showing events.
pub(crate) trait Render: Send {
    /// Renders an event.
    fn event(&mut self, at: &Stamp, event: &Event);
    /// Renders the last lines of a build that succeeded.
    fn closing(&mut self, _at: &Stamp, _lines: &[String]) {}
    /// Renders the error of a build that failed.
    fn failed(&mut self, at: &Stamp, complaint: &Complaint);
}
