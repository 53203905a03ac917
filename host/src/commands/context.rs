//! The context of verbs: the process as it was started.

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

/// The result of a verb: the exit status of vbuild, or an error.
pub(crate) type Outcome = Result<u8, CommandError>;

/// The parameters for building a base image of layers from a recipe.
#[derive(Debug)]
pub(crate) struct BaseBuild<'a> {
    /// The recipe of the base image.
    pub(crate) recipe: &'a Recipe,
    /// The directory of the project, against which paths in the recipe are resolved.
    pub(crate) project: &'a Path,
    /// The raw image to write.
    pub(crate) image: PathBuf,
    /// The settings of the run.
    pub(crate) settings: Settings,
}

/// The future of a base image's build.
pub(crate) type BaseFuture<'a> = Pin<Box<dyn Future<Output = Result<(), CommandError>> + 'a>>;

/// A function that builds a base image with the front end of its recipe.
pub(crate) type BuildBase =
    for<'a> fn(&'a ProcessContext, BaseBuild<'a>, &'a RunContext) -> BaseFuture<'a>;

/// The state of the process when vbuild started. Verbs read it instead of global state, so that
/// they can be tested.
#[derive(Debug, Clone)]
pub(crate) struct ProcessContext {
    /// The standard streams.
    pub(crate) console: Console,
    /// The name under which vbuild was started.
    pub(crate) personality: Personality,
    /// The clap command of that personality.
    pub(crate) command: Command,
    /// The arguments as typed, without the program's name.
    pub(crate) args: Vec<OsString>,
    /// The function that builds base images. It is passed in, because the code of layers does not
    /// depend on other front ends.
    pub(crate) build_base: BuildBase,
    /// The variables of the environment.
    pub(crate) environment: BTreeMap<OsString, OsString>,
}

impl ProcessContext {
    /// Returns the context of this process.
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

    /// Returns the value of a variable; `None` if it is unset or not UTF-8.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(std::ffi::OsStr::new(name))?.to_str()
    }
}
