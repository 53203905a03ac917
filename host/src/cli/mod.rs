//! The command line as typed: no I/O, no environment, no defaults that depend on
//! the machine.
//!
//! ```text
//! argv ──► personality (by the program's name) ──► getopt pass ──► clap ──► Invocation
//! ```
//!
//! The default verb has virt-dib's whole command line. A first word that is the
//! name of a verb is that verb; an element of such a name is written after `--`
//! or after an option.

mod backing;
mod build;
mod formats;
mod getopt;
mod host_paths;
mod network;
mod personality;
mod reuse;
mod values;
mod verbs;

pub use backing::BackingArgs;
pub use build::{
    AccelArg, AccelArgs, BuildArgs, BuilderArgs, DriveArgs, DriveFormatArg, ElementArgs, GuestArgs,
    ImageArgs, MachineArgs, MemoryArgs, OutputArgs, PackageArgs, ProcessorArgs, ScriptArgs,
    TmpfsArgs, ViewArgs,
};
pub use formats::{ChecksumKind, ContainerEngine, Formats, format_names, parse as parse_formats};
pub use getopt::{GetoptError, Options, Syntax};
pub use host_paths::HostPathArgs;
pub use network::{NetworkArgs, ReachArgs, SourceArgs};
pub use personality::Personality;
pub use reuse::{CacheDirArgs, OnFailureArg, ReuseArgs};
pub(crate) use values::age;
pub use values::{
    Age, ByteSize, CaBundle, EnvVar, InvalidValue, MachineReadable, Share, comma_list, positive,
    smp,
};
pub use verbs::{hint as verb_hint, near_verb};

use std::{error::Error as _, ffi::OsString};

use clap::{
    FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    commands,
    error::{CommandError, Kind},
};

/// The command line of vbuild.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(
    name = "vbuild",
    version,
    about = "Builds Linux disk images in a microVM, as an ordinary user",
    override_usage = "vbuild [OPTIONS] ELEMENT...\n       vbuild VERB [OPTIONS] ...",
    after_help = "A first word that is the name of a verb is that verb; an element of that name is written \
                  after `--`. Options and elements may be mixed, a long option may be given with one dash \
                  and by any unambiguous prefix. `vbuild help VERB` tells of a verb, vbuild(1) tells it \
                  all.",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    args_override_self = true
)]
pub struct Cli {
    /// What to do other than building.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// The build.
    #[command(flatten)]
    pub build: BuildArgs,
}

/// Everything that vbuild does beside the default, which is to build.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum Verb {
    /// Build what a vmdb2 spec says
    #[command(infer_long_args = true)]
    Vmdb(Box<commands::vmdb::VmdbArgs>),
    /// Build a stack of layer folders, as vm-layer-builder has them
    Layers(Box<commands::layers::LayersArgs>),
    /// Build what files of B9 describe, and keep its shared images
    B9(Box<commands::b9::B9Args>),
    /// Build the images that definitions in YAML name
    Images(Box<commands::images::ImagesArgs>),
    /// Show what a build would do, without doing it
    Plan(Box<commands::plan::PlanArgs>),
    /// Open a shell in the machine of a build, between two of its stages
    #[command(infer_long_args = true)]
    Shell(Box<commands::shell::ShellArgs>),
    /// Tell which script of a build made a file of its image
    Explain(Box<commands::explain::ExplainArgs>),
    /// Tell how much of an image each part of its build made
    Du(Box<commands::explain::DuArgs>),
    /// List, check and shrink what is kept of builds
    Store(commands::store::StoreCommand),
    /// Boot a finished image on its serial console, without changing it
    Boot(Box<commands::boot::BootArgs>),
    /// Run one command in a fresh appliance
    Exec(Box<commands::exec::ExecArgs>),
    /// Check what vbuild needs of this machine, and say what to do about it
    Doctor(commands::doctor::DoctorArgs),
    /// Make, show and remove appliances
    Appliance(commands::appliance::ApplianceCommand),
    /// Make what builds keep between them
    Cache(commands::cache::CacheCommand),
    /// Print the completions of a shell
    Completions(commands::completions::CompletionsArgs),
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// A build.
    Build(Box<BuildArgs>),
    /// Another verb.
    Verb(Box<Verb>),
    /// `--machine-readable` alone: what this vbuild can do.
    Capabilities(MachineReadable),
    /// Help, the version or a list of options.
    Print(String),
}

/// The clap command of vbuild itself, complete with what clap adds; for the manual and
/// the completions.
#[must_use]
pub fn command() -> clap::Command {
    Personality::Vbuild.command()
}

/// Reads a command line; `argv[0]` is the program's name.
///
/// # Errors
/// A usage error in the words of virt-dib where it has some.
pub fn parse(argv: &[OsString]) -> Result<(Personality, Invocation), CommandError> {
    let (program, args) =
        argv.split_first().map_or((OsString::new(), argv), |(p, a)| (p.clone(), a));
    let personality = Personality::of(&program);
    let command = personality.command();
    match invocation_of(personality, &command, args) {
        Ok(invocation) => Ok((personality, invocation)),
        Err(error) => {
            let verb = verb_of(&command, args).map(clap::Command::get_name);
            let kind = match verb {
                // It must not look like the command's own failure.
                Some("exec") => Kind::Exec,
                Some("vmdb") => Kind::VmdbUsage,
                // 1 would mean that they differ.
                Some("layers") if args.get(1).is_some_and(|verb| verb == "compare-layers") => {
                    Kind::NotCompared
                }
                _ if personality == Personality::Vmdb2 => Kind::VmdbUsage,
                _ => error.kind,
            };
            let name = personality.name();
            let hint = format!("Try ‘{name} --help’ or consult vbuild(1) for more information.");
            let hints = error.hints.into_iter().map(|other| match other.as_str() {
                HELP_HINT => hint.clone(),
                _ => other,
            });
            let meant = verb.is_none().then(|| verb_hint(personality, args, &[])).flatten();
            Err(CommandError { kind, hints: hints.collect(), ..error }.maybe_hint(meant))
        }
    }
}

fn invocation_of(
    personality: Personality,
    command: &clap::Command,
    args: &[OsString],
) -> Result<Invocation, CommandError> {
    let mut words = vec![OsString::from(personality.name())];
    let asked = match personality {
        Personality::Vbuild => verbs::as_options(command, args)?,
        _ => None,
    };
    let args = asked.as_deref().unwrap_or(args);
    // The options of a command line that getopt reads, and its arguments.
    let mut read = None;
    match verb_of(command, args) {
        Some(verb) if takes_elements(verb) && other_recipe(verb, &args[1..]).is_none() => {
            words.push(args[0].clone());
            read = Some((Options::of(verb, Syntax::LongOnly), &args[1..]));
        }
        Some(_) => words.extend_from_slice(args),
        // clap reads the command lines of programs that have no elements.
        None if !personality.builds_elements() => words.extend_from_slice(args),
        None => {
            if personality == Personality::RamdiskImageCreate {
                words.push("--ramdisk".into());
            }
            read = Some((Options::of(command, personality.syntax()), args));
        }
    }
    if let Some((options, args)) = &read {
        words.extend(options.normalise(args).map_err(getopt_error)?);
    }
    let matches = match command.clone().try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Err(verbs::lacks_verb(command, &words));
        }
        Err(error) => {
            let spelled = |long: &str| read.as_ref()?.0.spelled(read.as_ref()?.1, long);
            let printed = clap_error(&error, &spelled)?;
            return Ok(Invocation::Print(match error.kind() {
                ErrorKind::DisplayVersion => personality.version(printed),
                _ => printed,
            }));
        }
    };
    let wrong = |error: clap::Error| usage(error.to_string());
    match personality {
        Personality::Vbuild => {
            let cli = Cli::from_arg_matches(&matches).map_err(wrong)?;
            match cli.verb {
                Some(verb) => Ok(Invocation::Verb(Box::new(verb))),
                None => invocation(cli.build, command, personality),
            }
        }
        Personality::Vmdb2 => {
            let args = commands::vmdb::VmdbArgs::from_arg_matches(&matches).map_err(wrong)?;
            Ok(Invocation::Verb(Box::new(Verb::Vmdb(Box::new(args)))))
        }
        Personality::B9c => {
            let args = commands::b9::B9Args::from_arg_matches(&matches).map_err(wrong)?;
            Ok(Invocation::Verb(Box::new(Verb::B9(Box::new(args)))))
        }
        _ => {
            invocation(BuildArgs::from_arg_matches(&matches).map_err(wrong)?, command, personality)
        }
    }
}

/// What the result of a build may depend on by an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// The content of the image: every script sees the option in DIB_ARGS.
    Content,
    /// In which formats it is written, and where: scripts before cleanup.d do not see
    /// it, so that another format needs no new build.
    Outputs,
    /// Nothing. What there is to depend on (the network, certificates, the appliance)
    /// is in the keys of stages by itself.
    Nothing,
}

/// The class of every long option of the verbs that build with elements; a test refuses
/// one that is missing here.
const CLASSES: &[(Class, &[&str])] = &[
    (
        Class::Content,
        &[
            "element-path",
            "base-path",
            "exclude-element",
            "exclude-script",
            "skip-base",
            "clear-environment",
            "ramdisk",
            "ramdisk-element",
            "extra-packages",
            "install-type",
            "envvar",
            "share",
            "image-cache",
            "python",
            "offline",
            "trace",
            "arch",
            "size",
            "image-size",
            "image-extra-size",
            "fs-type",
            "mkfs-options",
            "mkfs-journal-size",
            "max-online-resize",
            "root-label",
        ],
    ),
    (
        Class::Outputs,
        &["checksum", "docker-target", "formats", "name", "qemu-img-options", "uncompressed"],
    ),
    (
        Class::Nothing,
        &[
            "accel",
            "allow-host",
            "allow-private",
            "appliance-package",
            "at",
            "ca-bundle",
            "cache",
            "cache-dir",
            "colours",
            "debug",
            "debug-shell",
            "drive",
            "drive-format",
            "help",
            "json",
            "keep-sync",
            "load-into",
            "logfile",
            "long-options",
            "machine-readable",
            "max-age",
            "memsize",
            "min-tmpfs",
            "mirror",
            "network",
            "no-cache",
            "no-delete-on-failure",
            "no-network",
            "no-tmpfs",
            "on-failure",
            "proxy-resolves",
            "quiet",
            "refresh",
            "remote-cache",
            "remote-key",
            "remote-unsigned",
            "require-confinement",
            "short-options",
            "smp",
            "timeout",
            "verbose",
            "version",
            "wrap",
        ],
    ),
];

/// The options of some classes.
fn options_of(classes: &[Class]) -> Vec<&'static str> {
    let wanted = CLASSES.iter().filter(|(class, _)| classes.contains(class));
    wanted.flat_map(|(_, names)| names.iter().copied()).collect()
}

/// Which words of a command line scripts see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// Those that say what is built: what diskimage-builder's scripts know as
    /// DIB_ARGS.
    Recipe,
    /// Of those, the ones that the content of the tree may depend on.
    Content,
}

/// Words of a command line, as typed.
#[must_use]
pub fn recipe_words(words: Words, personality: Personality, args: &[OsString]) -> Vec<OsString> {
    let command = personality.command();
    let unwanted = match words {
        Words::Recipe => options_of(&[Class::Nothing]),
        Words::Content => options_of(&[Class::Nothing, Class::Outputs]),
    };
    match verb_of(&command, args) {
        Some(verb) => Options::of(verb, Syntax::LongOnly).without(&args[1..], &unwanted),
        None => Options::of(&command, personality.syntax()).without(args, &unwanted),
    }
}

/// The verb of a command line; only vbuild's own has any.
fn verb_of<'a>(command: &'a clap::Command, args: &[OsString]) -> Option<&'a clap::Command> {
    command.find_subcommand(args.first()?.to_str()?)
}

fn takes_elements(verb: &clap::Command) -> bool {
    verb.get_arguments().any(|arg| arg.get_id() == "elements")
}

/// Where a verb that takes elements is given another recipe instead, behind options of
/// its own. clap reads such a line, as the other recipe's own options are clap's.
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

fn invocation(
    build: BuildArgs,
    command: &clap::Command,
    personality: Personality,
) -> Result<Invocation, CommandError> {
    let lines = |names: Vec<String>| Invocation::Print(names.join("\n") + "\n");
    let options = Options::of(command, personality.syntax());
    if build.long_options {
        return Ok(lines(options.long_names()));
    }
    if build.short_options {
        return Ok(lines(options.short_names()));
    }
    check_elements(&build).map(|capabilities| match capabilities {
        Some(channel) => Invocation::Capabilities(channel),
        None => Invocation::Build(Box::new(build)),
    })
}

/// What must hold between options before anything is looked up. `Some` when no
/// build is asked for but the list of capabilities.
fn check_elements(build: &BuildArgs) -> Result<Option<MachineReadable>, CommandError> {
    if build.elements.elements.is_empty() {
        return match &build.output.machine_readable {
            Some(channel) => Ok(Some(channel.clone())),
            None => Err(usage("at least one distribution root element must be specified")),
        };
    }
    let docker = build.image.formats.0.iter().any(|format| format.name == "docker");
    if docker && build.image.docker_target.is_none() {
        return Err(usage("docker: a target was not specified, use ‘--docker-target’"));
    }
    Ok(None)
}

/// Where to look; [`parse`] puts in the program's own name.
const HELP_HINT: &str = "Try ‘vbuild --help’ or consult vbuild(1) for more information.";

fn usage(message: impl Into<String>) -> CommandError {
    CommandError::usage(message).hint(HELP_HINT)
}

#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn getopt_error(error: GetoptError) -> CommandError {
    usage(error.to_string())
}

/// Help and the version are no errors; everything else is put into our words. An option is
/// named as the user has spelled it.
fn clap_error(
    error: &clap::Error,
    spelled: &dyn Fn(&str) -> Option<String>,
) -> Result<String, CommandError> {
    let option = option_of(error);
    let name_as_typed =
        |text: &str| match option.as_deref().and_then(|long| Some((long, spelled(long)?))) {
            Some((long, typed)) => text.replacen(&format!("--{long}"), &typed, 1),
            None => text.to_owned(),
        };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(error.render().to_string()),
        ErrorKind::ValueValidation if error.source().is_some_and(|s| s.is::<InvalidValue>()) => {
            let text = error.source().map(ToString::to_string).unwrap_or_default();
            let named = |long: &String| text.contains(&format!("--{long}"));
            Err(usage(name_as_typed(&match option.as_ref().filter(|long| !named(long)) {
                Some(long) => format!("--{long}: {text}"),
                None => text,
            })))
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let mut paragraphs = text.split("\n\n");
            let complaint = paragraphs.next().unwrap_or_default().trim_end();
            let mut complaint = usage(name_as_typed(complaint));
            for tip in paragraphs.filter_map(|p| p.trim().strip_prefix("tip: ")) {
                complaint = complaint.hint(tip.trim_end());
            }
            Err(complaint)
        }
    }
}

/// The long name of the option that an error is about.
fn option_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let name = argument.strip_prefix("--")?;
    Some(name.split([' ', '=', '[']).next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
