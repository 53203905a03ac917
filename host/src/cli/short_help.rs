//! The help of `-h`, which fits on one screen. `--help` and the manual have every option.

use std::collections::BTreeSet;

use clap::{Args as _, Command};

use super::build::BuildArgs;

/// The ids of the options shared by all builds that `-h` shows.
const SHOWN: &[&str] =
    &["element_path", "envvar", "share", "name", "formats", "size", "drive", "verbose"];

/// Hides the shared options that are seldom needed from `-h`. A verb's own options stay.
pub(crate) fn shorten(command: Command) -> Command {
    let shared = BuildArgs::augment_args(Command::new("shared"));
    let hidden = shared
        .get_arguments()
        .filter(|arg| !arg.is_positional())
        .map(|arg| arg.get_id().as_str().to_owned())
        .filter(|id| !SHOWN.contains(&id.as_str()));
    without(command, &hidden.collect())
}

fn without(command: Command, hidden: &BTreeSet<String>) -> Command {
    command
        .mut_args(|arg| match hidden.contains(arg.get_id().as_str()) {
            true => arg.hide_short_help(true),
            false => arg,
        })
        .mut_subcommands(|verb| without(verb, hidden))
}
