//! The thin library behind the vbuild binary.
//!
//! ```text
//! cli (as typed) ──► commands (resolved, one file per verb) ──► pipeline
//!                          │                                       │ events
//!                          └──────────► error ◄──── ui ◄───────────┘
//! ```
//!
//! Architecture invariant: only this package names both backends and every
//! front end, and only its `ui` writes to the terminal.

pub mod advice;
pub mod agent;
pub mod appliance;
pub mod backend;
pub mod build_dir;
pub mod ca;
pub mod cache_root;
pub mod checks;
pub mod cli;
pub mod commands;
pub mod confinement;
pub mod downloads;
pub mod drive;
pub mod error;
pub mod exec;
pub mod explain;
pub mod host_paths;
pub mod nested;
pub mod network;
pub mod pipeline;
pub mod progress;
pub mod settings;
pub mod shared_cache;
pub mod shell;
pub mod stage_cache;
pub mod trees;
pub mod ui;

use std::{ffi::OsString, process::ExitCode};

use cli::Invocation;
use commands::Context;

/// Everything between the arguments and the exit status.
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
    let argv = match nested::enter(argv) {
        Ok(argv) => argv,
        // Nobody is there any more who could be told.
        Err(_) => return ExitCode::FAILURE,
    };
    // What is written from here on is the user's alone, unless it is an output.
    rooted::make_umask_private();
    let console = ui::Console::of_process();
    // An image of its memory would hold what the guest was not to see: variables,
    // keys of caches, the user's terminal. Only a broken kernel refuses.
    if let Err(error) = confine::forbid_memory_images() {
        tracing::warn!(%error, "this process may leave an image of its memory");
    }
    let outcome = cli::parse(&argv).and_then(|(personality, invocation)| {
        let context = Context::of_process(console, personality, argv);
        if let Some(args) = cache_root::args_of(&invocation)
            && let Some(warning) = cache_root::prepare(args)?
        {
            console.print_warning(&warning);
        }
        match invocation {
            Invocation::Print(text) => console.print_own(&text).map(|()| 0),
            Invocation::Capabilities(channel) => commands::capabilities::run(&console, &channel),
            Invocation::Verb(verb) => commands::run(&context, *verb),
            Invocation::Build(args) => commands::dib::run(&context, &args),
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
