//! The thin library behind the vbuild binary. Its public items are for `main`, for the manual
//! (`man`), and for the tests that boot machines; a test limits their number.
//!
//! ```text
//! commands (one file per verb) ──► explain ──► build (pipeline) ──► machine
//!    │                                            │ events             │
//!    └──► cli (groups of options)                 ▼                    ▼
//!                                                ui ──► run_context, settings, error
//! ```
//!
//! A module imports only modules to the right of it or below it, and no two modules import each
//! other. A test checks this, too.
//!
//! Architecture invariant: only this package names both backends and every front end. Only its `ui`
//! writes to the terminal, except that `machine::shell` joins processes to it.

mod build;
mod cli;
mod commands;
mod error;
mod explain;
mod machine;
mod run_context;
mod settings;
mod ui;

pub use build::{pipeline::build, stage_cache::directory as store_directory};
pub use commands::command_line::command;
pub use error::{CommandError, Kind, exit_status};
pub use machine::{
    appliance::find_or_build as find_or_build_appliance,
    backend::{Backend, choose as choose_backend},
    build_dir::BuildDir,
};
pub use run_context::RunContext;
pub use settings::{CaSource, Settings, StageCache};

use std::{ffi::OsString, process::ExitCode};

use cli::Personality;
use commands::{
    base_recipe, cache_root, capabilities,
    command_line::{self, Invocation},
    context::ProcessContext,
    dib,
};

/// Runs the command line of the process and returns its exit status.
#[must_use]
pub fn run(argv: Vec<OsString>) -> ExitCode {
    // The program is its own helper for processes that must not outlive it.
    if argv.get(1).is_some_and(|verb| verb == qemu::CHILD_VERB) {
        qemu::exec_child(argv.into_iter().skip(2));
    }
    if argv.get(1).is_some_and(|verb| verb == microvm::VMM_VERB) {
        return microvm::vmm_child();
    }
    if argv.get(1).is_some_and(|verb| verb == confine::trial::TRIAL_VERB) {
        return confine::trial::in_place(argv.into_iter().skip(2));
    }
    // Files created from here on are private to the user, except outputs.
    rooted::make_umask_private();
    let console = ui::Console::of_process();
    // A dump of this process's memory would contain what guests must not see: variables, keys of
    // caches, the user's terminal. The calls fail only on a broken kernel.
    if let Err(error) = confine::forbid_memory_images() {
        tracing::warn!(%error, "this process may leave an image of its memory");
    }
    let (program, args) = argv
        .split_first()
        .map_or((OsString::new(), argv.as_slice()), |(program, args)| (program.clone(), args));
    let personality = Personality::of(&program);
    let command = command_line::command_of(personality);
    let outcome = command_line::parse(personality, &command, args).and_then(|invocation| {
        let build_base = base_recipe::build;
        let args = args.to_vec();
        let context = ProcessContext::of_process(console, personality, command, args, build_base);
        if let Some(args) = cache_root::args_of(&invocation)
            && let Some(warning) = cache_root::prepare(args)?
        {
            console.print_warning(&warning);
        }
        match invocation {
            Invocation::Print(text) => console.print_own(&text).map(|()| 0),
            Invocation::Capabilities(channel) => capabilities::run(&console, &channel),
            Invocation::Verb(verb) => verb.run(&context),
            Invocation::Build(args) => dib::run(&context, &args),
        }
    });
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if !error.told {
                console.print_error(&error);
            }
            ExitCode::from(error.exit_status())
        }
    }
}
