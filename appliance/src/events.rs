//! Progress events of an appliance build. Libraries do not print: terminal, log and tests render
//! these events.

use std::path::Path;

use crate::fetch::Progress;

/// A phase of the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Downloading Release files and package indices.
    Indices,
    /// Downloading packages.
    Packages,
    /// Unpacking packages.
    Unpack,
    /// Writing the image.
    Image,
    /// Running the first-stage microVM.
    Configure,
}

/// An event of an appliance build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Another vbuild process builds an appliance in the same cache; this one waits for its lock.
    Waiting {
        /// The lock file.
        lock: &'a Path,
    },
    /// A phase begins.
    Begin(Phase),
    /// Progress of a download.
    Download(Phase, Progress),
    /// A package was unpacked.
    Unpacked {
        /// The number of packages unpacked.
        done: usize,
        /// The total number of packages.
        total: usize,
    },
    /// A configuration step begins.
    Step {
        /// The number of the step, from 1; for a closing step, the total.
        number: usize,
        /// The total number of steps.
        total: usize,
        /// The package, or the closing step.
        name: &'a str,
    },
    /// A line of the configuration's output, for a log.
    Output(&'a str),
    /// A warning for the user.
    Warning(&'a str),
}

/// Receives the events of a build, in order and on the caller's thread.
pub trait Events {
    /// Receives an event.
    fn event(&mut self, event: Event<'_>);
}

/// Ignores all events.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {
    fn event(&mut self, _event: Event<'_>) {}
}
