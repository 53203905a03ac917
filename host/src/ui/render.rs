//! What every renderer of events has in common.

use std::time::{Duration, SystemTime};

use engine::events::Event;

use super::{
    complaint::Complaint,
    utc::Utc,
    words::{DEBUG_DETAIL, DEBUG_TRACE, Weight},
};

/// When an event is rendered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    /// Since vbuild started.
    pub(crate) elapsed: Duration,
    /// The clock on the wall.
    pub(crate) wall: SystemTime,
}

impl Stamp {
    pub(super) fn utc(&self) -> Utc {
        self.wall.into()
    }
}

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verbosity {
    /// Warnings and errors only.
    pub(crate) quiet: bool,
    /// The output of scripts, live.
    pub(crate) output: bool,
    /// Level of `--debug`.
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

/// One way of showing events.
pub(crate) trait Render: Send {
    /// Renders an event.
    fn event(&mut self, at: &Stamp, event: &Event);
    /// The last lines of a build that ended well.
    fn closing(&mut self, _at: &Stamp, _lines: &[String]) {}
    /// The build failed.
    fn failed(&mut self, at: &Stamp, complaint: &Complaint);
}
