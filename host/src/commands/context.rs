//! What every verb is given: the process as it was started.

use std::{collections::BTreeMap, ffi::OsString};

use clap::Command;

use crate::{cli::Personality, error::CommandError, ui::Console};

/// What a verb answers: the exit status of vbuild, or an error.
pub(crate) type Outcome = Result<u8, CommandError>;

/// The world as vbuild found it when it started. Verbs ask this and not the
/// process, so that they can be tested.
#[derive(Debug, Clone)]
pub(crate) struct ProcessContext {
    /// The standard streams.
    pub(crate) console: Console,
    /// The name under which vbuild was started.
    pub(crate) personality: Personality,
    /// The command line that goes with that name.
    pub(crate) command: Command,
    /// The arguments as typed, without the program's name.
    pub(crate) args: Vec<OsString>,
    /// The environment.
    pub(crate) environment: BTreeMap<OsString, OsString>,
}

impl ProcessContext {
    /// The context of this process.
    #[must_use]
    pub(crate) fn of_process(
        console: Console,
        personality: Personality,
        command: Command,
        args: Vec<OsString>,
    ) -> Self {
        let environment = std::env::vars_os().collect();
        Self { console, personality, command, args, environment }
    }

    /// A variable whose value is text; one that is not, is as good as unset.
    #[must_use]
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(std::ffi::OsStr::new(name))?.to_str()
    }
}
