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
mod reuse;
mod values;

pub use backing::BackingArgs;
pub use build::{
    AccelArg, AccelArgs, BuildArgs, BuilderArgs, DriveArgs, DriveFormatArg, ElementArgs, GuestArgs,
    ImageArgs, MachineArgs, MemoryArgs, OutputArgs, PackageArgs, ProcessorArgs, ScriptArgs,
    TmpfsArgs, ViewArgs,
};
pub use formats::{ChecksumKind, ContainerEngine, Formats, format_names, parse as parse_formats};
pub use getopt::{GetoptError, Options};
pub use host_paths::HostPathArgs;
pub use network::{NetworkArgs, ReachArgs, SourceArgs};
pub use reuse::{CacheDirArgs, OnFailureArg, ReuseArgs};
pub(crate) use values::age;
pub use values::{
    Age, ByteSize, CaBundle, EnvVar, InvalidValue, MachineReadable, Share, comma_list, positive,
    smp,
};

use std::{error::Error as _, ffi::OsString, path::Path};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};

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
                  and by any unambiguous prefix. vbuild(1) tells it all.",
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

/// The name under which vbuild was started decides whose command line it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personality {
    /// Its own.
    Vbuild,
    /// virt-dib's: the same without verbs.
    VirtDib,
    /// disk-image-create's: no verbs, `-p` takes packages, and variables of the
    /// environment that diskimage-builder reads are read.
    DiskImageCreate,
    /// ramdisk-image-create's: as above, and `--ramdisk` is given.
    RamdiskImageCreate,
    /// vmdb2's: the verb `vmdb`.
    Vmdb2,
    /// b9c's: the verb `b9`.
    B9c,
}

impl Personality {
    /// By the last part of the program's name.
    #[must_use]
    pub fn of(program: &OsString) -> Self {
        match Path::new(program).file_name().and_then(|name| name.to_str()) {
            Some("virt-dib") => Self::VirtDib,
            Some("disk-image-create") => Self::DiskImageCreate,
            Some("ramdisk-image-create") => Self::RamdiskImageCreate,
            Some("vmdb2") => Self::Vmdb2,
            Some("b9c") => Self::B9c,
            _ => Self::Vbuild,
        }
    }

    /// Whether the first word can be a verb.
    #[must_use]
    fn has_verbs(self) -> bool {
        matches!(self, Self::Vbuild | Self::Vmdb2 | Self::B9c)
    }

    /// Whether the environment is input, as it is for diskimage-builder.
    #[must_use]
    pub fn reads_dib_environment(self) -> bool {
        matches!(self, Self::DiskImageCreate | Self::RamdiskImageCreate)
    }
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

/// The clap command, complete with what clap adds itself; for the manual and
/// the completions.
#[must_use]
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// Reads a command line; `argv[0]` is the program's name.
///
/// # Errors
/// A usage error in the words of virt-dib where it has some.
pub fn parse(argv: &[OsString]) -> Result<(Personality, Invocation), CommandError> {
    let (program, args) =
        argv.split_first().map_or((OsString::new(), argv), |(p, a)| (p.clone(), a));
    let personality = Personality::of(&program);
    let mut args = args.to_vec();
    match personality {
        Personality::Vmdb2 => args.insert(0, "vmdb".into()),
        Personality::B9c => args.insert(0, "b9".into()),
        _ => {}
    }
    let parsed = invocation_of(personality, &args);
    parsed.map(|invocation| (personality, invocation)).map_err(|error| {
        let verb = args.first().and_then(|verb| verb.to_str()).filter(|_| personality.has_verbs());
        let kind = match verb {
            // It must not look like the command's own failure.
            Some("exec") => Kind::Exec,
            Some("vmdb") => Kind::VmdbUsage,
            _ => return error,
        };
        CommandError { kind, ..error }
    })
}

fn invocation_of(personality: Personality, args: &[OsString]) -> Result<Invocation, CommandError> {
    let command = command();
    let mut words = vec![OsString::from("vbuild")];
    match verb_of(&command, personality, args) {
        Some(verb) if takes_elements(verb) && other_recipe(verb, &args[1..]).is_none() => {
            words.push(args[0].clone());
            words.extend(Options::of(verb).normalise(&args[1..]).map_err(getopt_error)?);
        }
        Some(_) => words.extend_from_slice(args),
        None => {
            let mut options = Options::of(&command);
            if personality.reads_dib_environment() {
                options.assign_letter('p', "extra-packages");
            }
            if personality == Personality::RamdiskImageCreate {
                words.push("--ramdisk".into());
            }
            words.extend(options.normalise(args).map_err(getopt_error)?);
        }
    }
    let matches = match command.clone().try_get_matches_from(&words) {
        Ok(matches) => matches,
        Err(error) => return clap_error(&error).map(Invocation::Print),
    };
    let cli = Cli::from_arg_matches(&matches).map_err(|error| usage(error.to_string()))?;
    invocation(cli, &command)
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
    let command = command();
    let unwanted = match words {
        Words::Recipe => options_of(&[Class::Nothing]),
        Words::Content => options_of(&[Class::Nothing, Class::Outputs]),
    };
    match verb_of(&command, personality, args) {
        Some(verb) => Options::of(verb).without(&args[1..], &unwanted),
        None => {
            let mut options = Options::of(&command);
            if personality.reads_dib_environment() {
                options.assign_letter('p', "extra-packages");
            }
            options.without(args, &unwanted)
        }
    }
}

fn verb_of<'a>(
    command: &'a clap::Command,
    personality: Personality,
    args: &[OsString],
) -> Option<&'a clap::Command> {
    let first = args.first()?.to_str()?;
    personality.has_verbs().then(|| command.find_subcommand(first)).flatten()
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

fn invocation(cli: Cli, command: &clap::Command) -> Result<Invocation, CommandError> {
    if let Some(verb) = cli.verb {
        return Ok(Invocation::Verb(Box::new(verb)));
    }
    let build = cli.build;
    let lines = |names: Vec<String>| Invocation::Print(names.join("\n") + "\n");
    if build.long_options {
        return Ok(lines(Options::of(command).long_names()));
    }
    if build.short_options {
        return Ok(lines(Options::of(command).short_names()));
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

fn usage(message: impl Into<String>) -> CommandError {
    CommandError::usage(message)
        .hint("Try ‘vbuild --help’ or consult vbuild(1) for more information.")
}

#[expect(clippy::needless_pass_by_value, reason = "handed to map_err")]
fn getopt_error(error: GetoptError) -> CommandError {
    usage(error.to_string())
}

/// Help and the version are no errors; everything else is put into our words.
fn clap_error(error: &clap::Error) -> Result<String, CommandError> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(error.render().to_string()),
        ErrorKind::ValueValidation if error.source().is_some_and(|s| s.is::<InvalidValue>()) => {
            Err(usage(error.source().map(ToString::to_string).unwrap_or_default()))
        }
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let mut paragraphs = text.split("\n\n");
            let mut complaint = usage(paragraphs.next().unwrap_or_default().trim_end());
            for tip in paragraphs.filter_map(|p| p.trim().strip_prefix("tip: ")) {
                complaint = complaint.hint(tip.trim_end());
            }
            Err(complaint)
        }
    }
}

#[cfg(test)]
mod tests;
