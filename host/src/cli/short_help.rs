//! The help of `-h`, which fits on one screen. `--help` and the manual have every option.

use std::collections::BTreeSet;

use clap::{Arg, Args as _, Command};

use super::build::BuildArgs;

/// The ids of the options shared by all builds that `-h` shows.
const SHOWN: &[&str] =
    &["element_path", "envvar", "share", "name", "formats", "size", "drive", "verbose"];

/// What an option is: a verb's own option may have the id of a shared one.
type Identity = (String, Option<String>);

fn identity(arg: &Arg) -> Identity {
    (arg.get_id().to_string(), arg.get_help().map(ToString::to_string))
}

/// Hides the shared options that are seldom needed from `-h`. A verb's own options stay.
pub(crate) fn shorten(command: Command) -> Command {
    let shared = BuildArgs::augment_args(Command::new("shared"));
    let hidden = shared
        .get_arguments()
        .filter(|arg| !arg.is_positional() && !SHOWN.contains(&arg.get_id().as_str()))
        .map(identity);
    without(command, &hidden.collect())
}

fn without(command: Command, hidden: &BTreeSet<Identity>) -> Command {
    command
        .mut_args(|arg| match hidden.contains(&identity(&arg)) {
            true => {
                // Without a long text, the manual would have none.
                let text = arg.get_long_help().or(arg.get_help()).cloned().unwrap_or_default();
                arg.hide_short_help(true).long_help(text)
            }
            false => arg,
        })
        .mut_subcommands(|verb| without(verb, hidden))
}
