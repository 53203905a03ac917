//! The command line of `vbuild b9`, which is that of b9c, with vbuild's own options about
//! the machine where something is built.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::{
    BackingArgs, CacheDirArgs, HostPathArgs, MachineArgs, MachineReadable, ReachArgs, ReuseArgs,
    SourceArgs,
};

const MACHINE: &str = "The machine";
const NETWORK: &str = "The network";
const OUTPUT: &str = "What vbuild tells";

/// `vbuild b9`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    after_help = "vbuild-b9(5) tells what B9's files and its configuration hold, and in what this \
                  is better than b9c. Options may stand before and behind the verb."
)]
pub(crate) struct B9Args {
    /// Options of every verb.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// What is to be done.
    #[command(subcommand)]
    pub(crate) verb: B9Verb,
}

/// The options that b9c takes with every verb.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent flag of the command line"
)]
pub(crate) struct CommonArgs {
    /// Read this configuration; of several, the first that is there [default: ~/.b9/b9.conf]
    ///
    /// Of a single one, or the default, the names with `.4.0.0`, `.4.0` and `.4` behind them are
    /// looked for first. The default is made where it is missing.
    #[arg(short = 'c', long, value_name = "FILE", global = true)]
    pub(crate) configuration_file: Vec<PathBuf>,

    /// Show everything that is done on standard output
    #[arg(short = 'v', long, global = true)]
    pub(crate) verbose: bool,

    /// Show errors only
    #[arg(short = 'q', long, global = true)]
    pub(crate) quiet: bool,

    /// Append everything that is done to FILE
    #[arg(short = 'l', long, value_name = "FILE", global = true)]
    pub(crate) log_file: Option<PathBuf>,

    /// The folder in which build directories are made [default: the working folder]
    #[arg(short = 'b', long, value_name = "DIR", global = true)]
    pub(crate) build_root_dir: Option<PathBuf>,

    /// Keep the build directory
    #[arg(short = 'k', long, global = true)]
    pub(crate) keep_build_dir: bool,

    /// Give the build directory the same name every time, and keep it
    #[arg(short = 'u', long, global = true)]
    pub(crate) predictable_build_dir: bool,

    /// Where shared images are kept [default: ~/.b9/repo-cache]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) repo_cache: Option<PathBuf>,

    /// The repository of shared images: one of the configuration, a folder with a `/`, s3:// or ssh://
    #[arg(short = 'r', long, value_name = "ID", global = true)]
    pub(crate) repo: Option<String>,

    /// For b9c's sake: the network of its containers. A machine here has its own
    #[arg(long = "network", value_name = "NETWORK", global = true)]
    pub(crate) container_network: Option<String>,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub(crate) enum B9Verb {
    /// Build the artifacts that files of B9 describe
    Build(Box<B9BuildArgs>),
    /// Run a command in the newest revision of a shared image, which stays as it is
    Run(Box<RunArgs>),
    /// Push the newest revision of a shared image to the repository of `-r`
    Push(NameArgs),
    /// Learn what repositories have, and pull the newest revision of a shared image
    Pull(PullArgs),
    /// List shared images
    List,
    /// Remove shared images that are here beyond those that are kept of each name
    CleanLocal,
    /// Forget what is known about repositories
    CleanRemote,
    /// Add a repository to the configuration, or change it
    AddRepo(AddRepoArgs),
    /// Print files of B9 in its layout, and write them so
    Reformat(ReformatArgs),
    /// Print the version of B9 that this is a substitute for
    Version,
}

/// The files of a build, and what their variables are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct RecipeArgs {
    /// A file with artifacts; may be given several times
    #[arg(short = 'f', long = "project-file", value_name = "FILE", required = true)]
    pub(crate) project_file: Vec<PathBuf>,

    /// The variables `arg_1`, `arg_2` and so on; behind `--` as they are
    #[arg(value_name = "ARG")]
    pub(crate) arguments: Vec<String>,

    /// What the files may name of the host.
    #[command(flatten)]
    pub(crate) host_paths: HostPathArgs,
    /// What images may stand on.
    #[command(flatten)]
    pub(crate) backing: BackingArgs,
}

/// What builds, beside b9c's own options.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct GuestArgs {
    /// What vbuild keeps between builds.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,

    /// The options of the machine.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,

    /// Give scripts no network at all
    #[arg(long, help_heading = NETWORK)]
    pub(crate) no_network: bool,

    /// What scripts may reach.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,

    /// Where vbuild's own downloads come from.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// `vbuild b9 build`.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct B9BuildArgs {
    /// What is built.
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// The options about the machine and the caches.
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// What of earlier builds is used again.
    #[command(flatten)]
    pub(crate) reuse: ReuseArgs,

    /// Build at most N artifacts at once [default: as many as there are processors for]
    ///
    /// Artifacts that read or write what another one writes are built in the order of their
    /// files, and there are never more machines than memory is free for. What they say comes one
    /// after another. When a shell may be opened, there is one at a time.
    #[arg(long, value_name = "N", value_parser = jobs, help_heading = MACHINE)]
    pub(crate) jobs: Option<usize>,

    /// Let scripts wait for their disks when they sync
    ///
    /// Without this option, fsync(2) and its like succeed at once in scripts. Boot loaders that
    /// look for their files on the disk under a mounted filesystem may need it.
    #[arg(long, help_heading = MACHINE)]
    pub(crate) keep_sync: bool,

    /// Write events as JSON lines to fd:N, file:PATH, stream:stdout or stream:stderr
    #[arg(long, value_name = "CHANNEL", require_equals = true, help_heading = OUTPUT)]
    pub(crate) machine_readable: Option<MachineReadable>,
}

/// A build of B9 for verbs that look at builds: of one artifact, because each has a plan
/// of its own.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct B9PlanArgs {
    /// Options of every verb of B9.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// The options of the build.
    #[command(flatten)]
    pub(crate) build: B9BuildArgs,

    /// The artifact that is meant, where the files have several with images
    #[arg(long, value_name = "ID", help_heading = MACHINE)]
    pub(crate) artifact: Option<String>,
}

/// `vbuild b9 run`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "The working folder is at /mnt/CWD in the image, and what is written there comes \
                  back. The exit status is that of the command. Words of the command that begin \
                  with `-` stand behind `--`."
)]
pub(crate) struct RunArgs {
    /// The name of a shared image
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// The command and its arguments [default: zsh, or another shell of the image]
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Vec<String>,

    /// The options about the machine and the caches.
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

/// A verb about one shared image.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct NameArgs {
    /// The name of a shared image
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// `vbuild b9 pull`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct PullArgs {
    /// The name of a shared image; without one, only what repositories have is learnt
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// `vbuild b9 add-repo`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    override_usage = "vbuild b9 add-repo [OPTIONS] ID DIR KEY HOST [PORT] USER",
    after_help = "The port is 22 when it is left out."
)]
pub(crate) struct AddRepoArgs {
    /// What the repository is called
    #[arg(value_name = "ID")]
    pub(crate) id: String,

    /// Its folder on the machine
    #[arg(value_name = "DIR")]
    pub(crate) directory: String,

    /// The file with the key of ssh
    #[arg(value_name = "KEY")]
    pub(crate) key: PathBuf,

    /// The machine
    #[arg(value_name = "HOST")]
    pub(crate) host: String,

    /// The port of ssh, and who logs in there
    #[arg(value_name = "[PORT] USER", num_args = 1..=2, required = true)]
    pub(crate) port_and_user: Vec<String>,
}

/// `vbuild b9 reformat`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ReformatArgs {
    /// A file; may be given several times
    #[arg(short = 'f', long = "project-file", value_name = "FILE", required = true)]
    pub(crate) project_file: Vec<PathBuf>,
}

/// Reads a number of machines.
fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("at least 1 artifact is built at once".to_owned()),
    }
}
