//! Parses the command lines of vbuild, and of the programs under whose names it can be started,
//! into an [`Invocation`].
//!
//! The default verb has virt-dib's whole command line. If the first word is the name of a verb, it
//! is that verb; an element with such a name must follow `--` or an option.

use std::ffi::OsString;

use clap::{Args as _, Command, CommandFactory as _, FromArgMatches, Parser};

use super::{b9::B9Args, verb::Verb, vmdb::VmdbArgs};
use crate::{
    cli::{self, BuildArgs, BuildLine, MachineReadable, Matched, Personality, usage, verbs},
    error::{CommandError, Kind},
};

/// The command line of vbuild.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(
    name = "vbuild",
    version,
    about = "Builds Linux disk images in a microVM, as an ordinary user",
    override_usage = "vbuild [OPTIONS] ELEMENT...\n       vbuild VERB [OPTIONS] ...",
    after_help = "`vbuild --help` lists all options, `vbuild help VERB` tells of a verb.",
    after_long_help = "A first word that is the name of a verb is that verb; an element of that name is written \
                  after `--`. Options and elements may be mixed, a long option may be given with one dash \
                  and by any unambiguous prefix. `vbuild help VERB` tells of a verb, vbuild(1) tells it \
                  all.",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    args_override_self = true
)]
pub(crate) struct Cli {
    /// The verb, if it is not a build with elements.
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    /// The options of the build.
    #[command(flatten)]
    pub(crate) build: BuildArgs,
}

/// The action that a command line requests.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Invocation {
    /// A build with elements.
    Build(Box<BuildArgs>),
    /// A verb with its arguments.
    Verb(Box<Verb>),
    /// `--machine-readable` without elements: print the capabilities of this vbuild.
    Capabilities(MachineReadable),
    /// Print this text: help, the version or a list of options.
    Print(String),
}

impl From<BuildLine> for Invocation {
    fn from(line: BuildLine) -> Self {
        match line {
            BuildLine::Build(args) => Self::Build(args),
            BuildLine::Capabilities(channel) => Self::Capabilities(channel),
            BuildLine::Print(text) => Self::Print(text),
        }
    }
}

/// Returns the clap command of vbuild itself, including everything that clap adds, for the manual
/// and the completions.
#[must_use]
pub fn command() -> Command {
    command_of(Personality::Vbuild)
}

/// Returns the clap command of a program, including everything that clap adds.
pub(crate) fn command_of(personality: Personality) -> Command {
    let name = personality.name();
    let mut command = match personality {
        Personality::Vbuild => Cli::command(),
        Personality::Vmdb2 => VmdbArgs::augment_args(Command::new(name)).infer_long_args(true),
        Personality::B9c => B9Args::augment_args(Command::new(name)),
        Personality::VirtDib | Personality::DiskImageCreate | Personality::RamdiskImageCreate => {
            personality.build_command()
        }
    };
    command = cli::shorten(command);
    command.build();
    command
}

/// Parses a command line with the command of the personality. `args` does not include the program's
/// name.
///
/// # Errors
/// Returns a usage error, in the words of virt-dib if it has a message for the error.
pub(crate) fn parse(
    personality: Personality,
    command: &Command,
    args: &[OsString],
) -> Result<Invocation, CommandError> {
    invocation(personality, command, args).map_err(|error| {
        let verb = cli::verb_of(command, args).map(Command::get_name);
        let kind = match verb {
            // The exit status must not look like a failure of the command itself.
            Some("exec") => Kind::Exec,
            Some("vmdb") => Kind::VmdbUsage,
            // Status 1 would mean that the images differ.
            Some("layers") if args.get(1).is_some_and(|verb| verb == "compare-layers") => {
                Kind::NotCompared
            }
            _ if personality == Personality::Vmdb2 => Kind::VmdbUsage,
            _ => error.kind,
        };
        let meant = match verb {
            None => verbs::hint(personality, command, args, &[]),
            Some(_) => None,
        };
        let error = cli::in_name_of(personality, error);
        CommandError { kind, ..error }.maybe_hint(meant)
    })
}

fn invocation(
    personality: Personality,
    command: &Command,
    args: &[OsString],
) -> Result<Invocation, CommandError> {
    let matches = match cli::matches(personality, command, args)? {
        Matched::Arguments(matches) => matches,
        Matched::Print(text) => return Ok(Invocation::Print(text)),
    };
    let wrong = |error: clap::Error| usage(error.to_string());
    let verb = match personality {
        Personality::Vbuild => Cli::from_arg_matches(&matches).map_err(wrong)?.verb,
        Personality::Vmdb2 => {
            let args = VmdbArgs::from_arg_matches(&matches).map_err(wrong)?;
            Some(Verb::Vmdb(Box::new(args)))
        }
        Personality::B9c => {
            let args = B9Args::from_arg_matches(&matches).map_err(wrong)?;
            Some(Verb::B9(Box::new(args)))
        }
        Personality::VirtDib | Personality::DiskImageCreate | Personality::RamdiskImageCreate => {
            None
        }
    };
    match verb {
        Some(verb) => Ok(Invocation::Verb(Box::new(verb))),
        None => cli::build_line(&matches, personality, command).map(Invocation::from),
    }
}

/// Parses a command line for tests; the first word is the program's name.
#[cfg(test)]
pub(crate) fn parse_argv(argv: &[OsString]) -> Result<(Personality, Invocation), CommandError> {
    let personality = Personality::of(&argv[0]);
    parse(personality, &command_of(personality), &argv[1..]).map(|line| (personality, line))
}

#[cfg(test)]
mod tests;
