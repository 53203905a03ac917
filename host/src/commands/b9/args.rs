//! The command line of `vbuild b9`: that of b9c, and vbuild's own options for the machine on verbs
//! that start one.

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
    /// The options of every verb.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// The verb to run.
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
    /// Read this configuration; of several, the first that exists [default: ~/.b9/b9.conf]
    ///
    /// For a single FILE, and for the default, the names with `.4.0.0`, `.4.0` and `.4` appended
    /// are tried first. `vbuild b9` creates the default if it does not exist.
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

    /// Make build directories in DIR [default: the working folder]
    #[arg(short = 'b', long, value_name = "DIR", global = true)]
    pub(crate) build_root_dir: Option<PathBuf>,

    /// Keep the build directory
    #[arg(short = 'k', long, global = true)]
    pub(crate) keep_build_dir: bool,

    /// Give the build directory the same name every time, and keep it
    #[arg(short = 'u', long, global = true)]
    pub(crate) predictable_build_dir: bool,

    /// Keep shared images in DIR [default: ~/.b9/repo-cache]
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) repo_cache: Option<PathBuf>,

    /// Use this repository of shared images: one of the configuration, a folder with a `/`, s3://
    /// or ssh://
    #[arg(short = 'r', long, value_name = "ID", global = true)]
    pub(crate) repo: Option<String>,

    /// Accepted for compatibility with b9c, without effect: machines have their own network
    #[arg(long = "network", value_name = "NETWORK", global = true)]
    pub(crate) container_network: Option<String>,
}

/// The verbs of `vbuild b9`.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub(crate) enum B9Verb {
    /// Build the artifacts that B9 files describe
    Build(Box<B9BuildArgs>),
    /// Run a command in the newest revision of a shared image, which is not changed
    Run(Box<RunArgs>),
    /// Push the newest revision of a shared image to the repository of `-r`
    Push(NameArgs),
    /// Read what repositories contain, and pull the newest revision of a shared image
    Pull(PullArgs),
    /// List shared images
    List,
    /// Remove local revisions of shared images beyond the number that is kept of each name
    CleanLocal,
    /// Forget what is known about repositories
    CleanRemote,
    /// Add a repository to the configuration, or change one
    AddRepo(AddRepoArgs),
    /// Print B9 files in B9's own layout, and rewrite them in it
    Reformat(ReformatArgs),
    /// Print the version of B9 for which this is a substitute
    Version,
}

/// The files of a build, the values of their variables, and the host paths that they may name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct RecipeArgs {
    /// Read artifacts from FILE; repeatable
    #[arg(short = 'f', long = "project-file", value_name = "FILE", required = true)]
    pub(crate) project_file: Vec<PathBuf>,

    /// The variables `arg_1`, `arg_2` and so on; words after `--` are taken as they are
    #[arg(value_name = "ARG")]
    pub(crate) arguments: Vec<String>,

    /// The host paths that the files may name.
    #[command(flatten)]
    pub(crate) host_paths: HostPathArgs,
    /// The backing files that images may have.
    #[command(flatten)]
    pub(crate) backing: BackingArgs,
}

/// vbuild's own options for verbs that start a machine.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct GuestArgs {
    /// The cache directory.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,

    /// The options of the machine.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,

    /// Give scripts no network at all
    #[arg(long, help_heading = NETWORK)]
    pub(crate) no_network: bool,

    /// The hosts that scripts may reach.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,

    /// The sources of vbuild's own downloads.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// The arguments of `vbuild b9 build`.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct B9BuildArgs {
    /// The files of the build.
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// The options for the machine.
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// The options for reusing results of earlier builds.
    #[command(flatten)]
    pub(crate) reuse: ReuseArgs,

    /// Build at most N artifacts at once [default: as many as there are processors for]
    ///
    /// Artifacts that read or write what another one writes are built in the order of their files,
    /// and there are never more machines than free memory allows. Their output is shown one
    /// artifact after another. If a shell may be opened, artifacts are built one at a time.
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

/// The arguments of a B9 build, for verbs that inspect builds. They select one artifact, because
/// each has a plan of its own.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct B9PlanArgs {
    /// The options of every verb of B9.
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// The options of the build.
    #[command(flatten)]
    pub(crate) build: B9BuildArgs,

    /// Select this artifact, if the files have several with images
    #[arg(long, value_name = "ID", help_heading = MACHINE)]
    pub(crate) artifact: Option<String>,
}

/// The arguments of `vbuild b9 run`.
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

    /// The options for the machine.
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

/// The arguments of a verb for one shared image.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct NameArgs {
    /// The name of a shared image
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// The arguments of `vbuild b9 pull`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct PullArgs {
    /// The name of a shared image; without one, vbuild only reads what repositories contain
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// The arguments of `vbuild b9 add-repo`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    override_usage = "vbuild b9 add-repo [OPTIONS] ID DIR KEY HOST [PORT] USER",
    after_help = "The port is 22 when it is left out."
)]
pub(crate) struct AddRepoArgs {
    /// Name of the repository
    #[arg(value_name = "ID")]
    pub(crate) id: String,

    /// Folder of the repository on the machine
    #[arg(value_name = "DIR")]
    pub(crate) directory: String,

    /// File with the SSH key
    #[arg(value_name = "KEY")]
    pub(crate) key: PathBuf,

    /// Name of the machine
    #[arg(value_name = "HOST")]
    pub(crate) host: String,

    /// Port of SSH, and the user who logs in there
    #[arg(value_name = "[PORT] USER", num_args = 1..=2, required = true)]
    pub(crate) port_and_user: Vec<String>,
}

/// The arguments of `vbuild b9 reformat`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ReformatArgs {
    /// Reformat FILE; repeatable
    #[arg(short = 'f', long = "project-file", value_name = "FILE", required = true)]
    pub(crate) project_file: Vec<PathBuf>,
}

/// Parses the number of artifacts that are built at once.
fn jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("at least 1 artifact is built at once".to_owned()),
    }
}
