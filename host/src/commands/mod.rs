//! One file per verb: its arguments with the manual as doc comments, and `run`.
//! Below them what verbs share.

pub mod appliance;
pub mod b9;
pub mod boot;
pub mod cache;
pub mod capabilities;
pub mod completions;
pub mod dib;
pub mod doctor;
pub mod exec;
pub mod explain;
pub mod images;
pub mod layers;
pub mod plan;
pub mod recipe;
pub mod shell;
pub mod store;
pub mod vmdb;

mod caller;
pub mod logs;
pub mod machine_run;
pub mod resolve;

use std::{collections::BTreeMap, ffi::OsString};

use crate::{
    cli::{Personality, Verb},
    error::CommandError,
    ui::Console,
};

/// What a verb answers: the exit status of vbuild, or an error.
pub type Outcome = Result<u8, CommandError>;

/// The world as vbuild found it when it started. Verbs ask this and not the
/// process, so that they can be tested.
#[derive(Debug, Clone)]
pub struct Context {
    /// The standard streams.
    pub console: Console,
    /// The name under which vbuild was started.
    pub personality: Personality,
    /// The arguments as typed, the program's name first.
    pub argv: Vec<OsString>,
    /// The environment.
    pub environment: BTreeMap<OsString, OsString>,
}

impl Context {
    /// Of this process.
    #[must_use]
    pub fn of_process(console: Console, personality: Personality, argv: Vec<OsString>) -> Self {
        Self { console, personality, argv, environment: std::env::vars_os().collect() }
    }

    /// A variable whose value is text; one that is not, is as good as unset.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(std::ffi::OsStr::new(name))?.to_str()
    }
}

/// Runs a verb.
///
/// # Errors
/// Whatever the verb fails with.
pub fn run(context: &Context, verb: Verb) -> Outcome {
    match verb {
        Verb::Vmdb(args) => vmdb::run(context, &args),
        Verb::Layers(args) => layers::run(context, &args),
        Verb::B9(args) => b9::run(context, &args),
        Verb::Images(args) => images::run(context, &args),
        Verb::Plan(args) => plan::run(context, &args),
        Verb::Shell(args) => shell::run(context, &args),
        Verb::Explain(args) => explain::run(context, &args),
        Verb::Du(args) => explain::run_du(context, &args),
        Verb::Store(command) => store::run(context, command),
        Verb::Boot(args) => boot::run(context, &args),
        Verb::Exec(args) => exec::run(context, &args),
        Verb::Doctor(args) => doctor::run(context, &args),
        Verb::Appliance(command) => appliance::run(context, command),
        Verb::Cache(command) => cache::run(context, command),
        Verb::Completions(args) => completions::run(context, &args),
    }
}
