//! What a build of the appliance tells while it runs. Libraries do not print:
//! a terminal, a log and a test all render these.

use std::path::Path;

use crate::fetch::Progress;

/// A part of the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Release files and package indices.
    Indices,
    /// The packages.
    Packages,
    /// Reading the packages.
    Unpack,
    /// Writing the image.
    Image,
    /// The first-stage microVM.
    Configure,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// Another vbuild builds an appliance in the same cache; this one waits for
    /// its lock.
    Waiting {
        /// The lock file.
        lock: &'a Path,
    },
    /// A part begins.
    Begin(Phase),
    /// A download goes on.
    Download(Phase, Progress),
    /// A package was unpacked.
    Unpacked {
        /// How many are done.
        done: usize,
        /// How many there are.
        total: usize,
    },
    /// A step of the configuration begins.
    Step {
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        total: usize,
        /// The package or the closing step.
        name: &'a str,
    },
    /// A line of output of the configuration, for a log.
    Output(&'a str),
    /// Something that the user should know and that stops nothing.
    Warning(&'a str),
}

/// Takes the events of a build, in order and on the caller's thread.
pub trait Events {
    /// Takes one event.
    fn event(&mut self, event: Event<'_>);
}

/// Takes no notice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {
    fn event(&mut self, _event: Event<'_>) {}
}
