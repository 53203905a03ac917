//! What every verb is given: the process as it was started.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
    pin::Pin,
};

use clap::Command;
use layers::Recipe;

use crate::{
    cli::Personality, error::CommandError, run_context::RunContext, settings::Settings, ui::Console,
};

/// What a verb answers: the exit status of vbuild, or an error.
pub(crate) type Outcome = Result<u8, CommandError>;

/// A base image that a recipe makes for layers.
#[derive(Debug)]
pub(crate) struct BaseBuild<'a> {
    /// The recipe of the base image.
    pub(crate) recipe: &'a Recipe,
    /// The project, from which the paths of the recipe are meant.
    pub(crate) project: &'a Path,
    /// The raw image to write.
    pub(crate) image: PathBuf,
    /// The settings of the run.
    pub(crate) settings: Settings,
}

/// A build of a base image that is under way.
pub(crate) type BaseFuture<'a> = Pin<Box<dyn Future<Output = Result<(), CommandError>> + 'a>>;

/// Builds a base image with the front end of its recipe.
pub(crate) type BuildBase =
    for<'a> fn(&'a ProcessContext, BaseBuild<'a>, &'a RunContext) -> BaseFuture<'a>;

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
    /// Builds base images. Given from outside, because layers know no other front end.
    pub(crate) build_base: BuildBase,
    /// The variables of the environment.
    pub(crate) environment: BTreeMap<OsString, OsString>,
}

impl ProcessContext {
    /// The context of this process.
    pub(crate) fn of_process(
        console: Console,
        personality: Personality,
        command: Command,
        args: Vec<OsString>,
        build_base: BuildBase,
    ) -> Self {
        let environment = std::env::vars_os().collect();
        Self { console, personality, command, args, build_base, environment }
    }

    /// A variable whose value is text; one that is not, is as good as unset.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(std::ffi::OsStr::new(name))?.to_str()
    }
}
