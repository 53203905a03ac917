//! Parses a command line with getopt and clap, for programs with and without verbs.

use std::ffi::OsString;

use clap::{ArgMatches, Command, FromArgMatches as _, error::ErrorKind};

use super::{
    build::BuildArgs,
    getopt::{Options, Syntax},
    personality::Personality,
    usage::{clap_error, in_name_of, usage},
    values::MachineReadable,
    verbs,
};
use crate::error::CommandError;

/// The request of a build's command line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum BuildLine {
    /// A build with these arguments.
    Build(Box<BuildArgs>),
    /// `--machine-readable` without elements: the list of what this vbuild can do.
    Capabilities(MachineReadable),
    /// Help, the version or a list of options.
    Print(String),
}

/// The result of parsing a command line with clap.
#[derive(Debug)]
pub(crate) enum Matched {
    /// The matches, from which arguments are read.
    Arguments(ArgMatches),
    /// Help or the version; the program prints it and ends.
    Print(String),
}

/// Parses the command line of a program that has no verbs and builds with elements.
///
/// # Errors
/// Fails with a usage error, in the words of virt-dib where virt-dib has such an error.
pub(crate) fn parse_build(
    personality: Personality,
    command: &Command,
    args: &[OsString],
) -> Result<BuildLine, CommandError> {
    let line = matches(personality, command, args).and_then(|matched| match matched {
        Matched::Print(text) => Ok(BuildLine::Print(text)),
        Matched::Arguments(matches) => build_line(&matches, personality, command),
    });
    line.map_err(|error| in_name_of(personality, error))
}

/// Parses a command line; `args` does not include the program's name.
///
/// # Errors
/// Fails with a usage error, in the words of virt-dib where virt-dib has such an error.
pub(crate) fn matches(
    personality: Personality,
    command: &Command,
    args: &[OsString],
) -> Result<Matched, CommandError> {
    let mut words = vec![OsString::from(personality.name())];
    let asked = match personality {
        Personality::Vbuild => verbs::as_options(command, args)?,
        _ => None,
    };
    let args = asked.as_deref().unwrap_or(args);
    // The options and the arguments of a command line that getopt reads first.
    let mut read = None;
    match verb_of(command, args) {
        Some(verb) if takes_elements(verb) && other_recipe(verb, &args[1..]).is_none() => {
            words.push(args[0].clone());
            read = Some((Options::of(verb, Syntax::LongOnly), &args[1..]));
        }
        Some(_) => words.extend_from_slice(args),
        // clap alone reads the command lines of programs that have no elements.
        None if !personality.builds_elements() => words.extend_from_slice(args),
        None => {
            if personality == Personality::RamdiskImageCreate {
                words.push("--ramdisk".into());
            }
            read = Some((Options::of(command, personality.syntax()), args));
        }
    }
    if let Some((options, args)) = &read {
        words.extend(options.normalise(args)?);
    }
    match command.clone().try_get_matches_from(&words) {
        Ok(matches) => Ok(Matched::Arguments(matches)),
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Err(verbs::lacks_verb(command, &words))
        }
        Err(error) => {
            let spelled = |long: &str| read.as_ref()?.0.spelled(read.as_ref()?.1, long);
            let printed = clap_error(&error, &spelled)?;
            Ok(Matched::Print(match error.kind() {
                ErrorKind::DisplayVersion => personality.version(printed),
                _ => printed,
            }))
        }
    }
}

/// Returns the verb that the first argument names, if any.
pub(crate) fn verb_of<'a>(
    command: &'a clap::Command,
    args: &[OsString],
) -> Option<&'a clap::Command> {
    command.find_subcommand(args.first()?.to_str()?)
}

fn takes_elements(verb: &clap::Command) -> bool {
    verb.get_arguments().any(|arg| arg.get_id() == "elements")
}

/// Returns the index of the other recipe's verb if a verb that takes elements is given another
/// recipe instead, after options of its own. clap alone reads such a line, because the options of
/// the other recipe follow clap's syntax.
fn other_recipe(verb: &clap::Command, args: &[OsString]) -> Option<usize> {
    let mut rest = args.iter().enumerate();
    while let Some((index, arg)) = rest.next() {
        let arg = arg.to_str()?;
        if verb.find_subcommand(arg).is_some() {
            return Some(index);
        }
        match arg {
            "--at" | "-at" => drop(rest.next()),
            option if option.starts_with("--") => {}
            _ => return None,
        }
    }
    None
}

/// Returns the build that clap has read, or the list that is asked for instead.
///
/// # Errors
/// Fails if elements or a container target are missing, or options do not go together.
pub(crate) fn build_line(
    matches: &ArgMatches,
    personality: Personality,
    command: &Command,
) -> Result<BuildLine, CommandError> {
    let build = BuildArgs::from_arg_matches(matches).map_err(|error| usage(error.to_string()))?;
    let lines = |names: Vec<String>| BuildLine::Print(names.join("\n") + "\n");
    let options = Options::of(command, personality.syntax());
    if build.long_options {
        return Ok(lines(options.long_names()));
    }
    if build.short_options {
        return Ok(lines(options.short_names()));
    }
    Ok(match check_elements(&build)? {
        Some(channel) => BuildLine::Capabilities(channel),
        None => BuildLine::Build(Box::new(build)),
    })
}

/// Checks the elements and the container target of a build, before anything is looked up. Returns
/// `Some` if the command line asks for the list of capabilities instead of a build.
fn check_elements(build: &BuildArgs) -> Result<Option<MachineReadable>, CommandError> {
    if build.elements.elements.is_empty() {
        return match &build.output.machine_readable {
            Some(channel) => Ok(Some(channel.clone())),
            None => Err(usage("at least one distribution root element must be specified")),
        };
    }
    let named = |format: &&&output::Format| format.container == Some(output::Naming::Required);
    if let Some(format) = build.image.formats.0.iter().find(named)
        && build.image.docker_target.is_none()
    {
        let name = format.name;
        return Err(usage(format!("{name}: a target was not specified, use ‘--docker-target’")));
    }
    Ok(None)
}
