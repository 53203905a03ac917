//! `vbuild vmdb`: builds the image that a vmdb2 spec describes. Started under the name `vmdb2`,
//! vbuild offers only this verb.
//!
//! Standard output follows vmdb2's contract: without `-v` it is empty; with `-v` it contains the
//! steps in order, their texts, and the teardowns in reverse order.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use checked::Printable;
use clap::{Args, ValueEnum};
use engine::events::{Event, Observer};
use machine::MachineArchitecture;
use vmdb::{Narrator, Options, Prepared, Wording};

use super::context::{BaseBuild, Outcome, ProcessContext};
use crate::{
    build::{
        checks, container, formats, host_paths, logs, options, pipeline, planned::Planned, runtime,
    },
    cli::{
        BuilderArgs, ChecksumKind, ContainerEngine, Formats, HostPathArgs, Share, parse_formats,
        positive,
    },
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
    ui::{self, Console, Ui, Verbosity},
};

/// `vbuild vmdb`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "The spec is read as vmdb2 0.26 to 0.41 read it. Everything wrong with it is told at \
                        once, before anything runs. The exit status is 1 when the spec or the build \
                        fails, 2 when the command line is wrong."
)]
pub(crate) struct VmdbArgs {
    /// The spec, or `-` for standard input
    #[arg(value_name = "SPEC", required_unless_present = "version")]
    pub(crate) spec: Option<String>,

    /// Make a new image; the suffix of FILE gives the format
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<String>,

    /// Work on an existing image
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<String>,

    /// Keep the root filesystem in FILE, where cache-rootfs writes it and unpack-rootfs finds it
    #[arg(long, value_name = "FILE")]
    pub(crate) rootfs_tarball: Option<String>,

    /// Set a variable for the spec's templates; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) variable: Vec<String>,

    /// Show the steps and their messages on standard output
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,

    /// Write the whole log of the build to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,

    /// Only warn about keys that vmdb2 silently ignores
    #[arg(long)]
    pub(crate) lenient: bool,

    /// With -v, show the messages of this version of vmdb2
    #[arg(long, value_name = "VERSION", default_value = "0.26")]
    pub(crate) wording: WordingArg,

    /// Write these formats, instead of the one that the output's suffix gives; comma-separated
    #[arg(long, value_name = "FORMAT,...", value_parser = parse_formats)]
    pub(crate) formats: Option<Formats>,

    /// Do not compress formats that can be compressed
    #[arg(short = 'u', long)]
    pub(crate) uncompressed: bool,

    /// Options for the image, as `qemu-img -o` takes them
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) qemu_img_options: Option<String>,

    /// Repository and tag of container outputs
    #[arg(long, value_name = "REPOSITORY[:TAG]")]
    pub(crate) docker_target: Option<String>,

    /// Load the finished container image into the engine that runs here
    #[arg(long, value_name = "ENGINE")]
    pub(crate) load_into: Option<ContainerEngine>,

    /// Let `shell` and `ansible` steps read a host file or folder; repeatable
    ///
    /// It appears in the machine under GUEST, or under its own absolute path. If GUEST is
    /// /build/spec, it is the working directory of `shell` steps, instead of the spec's own folder.
    #[arg(long, value_name = "HOST[:GUEST]")]
    pub(crate) share: Vec<Share>,

    /// Do not let `shell` steps see the spec's own folder
    ///
    /// Without this option they see it, read only, as their working directory, because the steps of
    /// most specs read files beside the spec. A home, a folder for temporary files and `/` are
    /// never shared as a whole; files that the build writes and files over 256 MiB are left out.
    #[arg(long)]
    pub(crate) no_share_spec: bool,

    /// Write checksums beside each output [default when given: md5,sha256]
    #[arg(long, value_name = "KIND,...", require_equals = true, num_args = 0..=1,
          value_delimiter = ',', default_missing_values = ["md5", "sha256"])]
    pub(crate) checksum: Vec<ChecksumKind>,

    /// Fail a step that runs longer than this
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(crate) timeout: Option<u32>,

    /// Print the version as vmdb2 does, and end
    #[arg(long)]
    pub(crate) version: bool,

    /// The host paths that the spec may name.
    #[command(flatten)]
    pub(crate) host_paths: HostPathArgs,

    /// The options for the machine and the caches.
    #[command(flatten)]
    pub(crate) builder: BuilderArgs,
}

/// The versions of vmdb2 whose messages can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WordingArg {
    /// The messages of vmdb2 in Debian 12
    #[value(name = "0.26")]
    V026,
    /// Also shows the whole spec before anything runs, and the output of commands
    #[value(name = "0.41")]
    V041,
}

/// Builds the image.
///
/// # Errors
/// Fails if the spec cannot be read or is invalid, or if the build fails.
pub(crate) fn run(context: &ProcessContext, args: &VmdbArgs) -> Outcome {
    if args.version {
        // The version of the vmdb2 whose messages -v shows, because scripts compare it.
        let wording = args.wording.to_possible_value();
        let version = wording.map(|value| value.get_name().to_owned()).unwrap_or_default();
        context.console.print(&format!("{version}\n"))?;
        return Ok(0);
    }
    build_spec(context, args).map_err(|error| match error.kind {
        // Usage errors are about the command line. Errors in the spec itself have the kind `Build`:
        // in vmdb2, they are failed builds.
        Kind::Usage => CommandError { kind: Kind::VmdbUsage, ..error },
        _ => error,
    })
}

fn build_spec(context: &ProcessContext, args: &VmdbArgs) -> Outcome {
    let options =
        options(args, working_folder()?, &options::cache_dir(&args.builder.guest.cache_dir))?;
    let mut prepared = vmdb::prepare(&options, &mut std::io::stdin())?;
    if prepared.is_local() {
        return run_local(&context.console, args, &prepared);
    }
    let settings = settings(args, &prepared);
    let loading = container::archive(args.load_into, args.formats.as_ref())?;
    // Outputs that cannot be written are reported before the view opens.
    checks::outputs(&prepared.lowered.plan, false)?;
    let console = context.console.shared_with_shell(settings.may_open_shell());
    let ui = Arc::new(Ui::open(&view(args, &settings, &console), &console)?);
    let mut first = true;
    runtime::run_attempts(&ui, async |ctx| {
        // A spec from standard input cannot be read a second time.
        if !std::mem::take(&mut first) && options.spec != "-" {
            prepared = vmdb::prepare(&options, &mut std::io::stdin())?;
        }
        let written = build(args, &prepared, &settings, ctx.clone(), console).await?;
        container::load(args.load_into, loading, &written, ctx)
    })?;
    Ok(0)
}

fn settings(args: &VmdbArgs, prepared: &Prepared) -> Settings {
    let settings = Settings {
        script_timeout: args.timeout.map(|seconds| std::time::Duration::from_secs(seconds.into())),
        ..options::builder_settings(&args.builder)
    };
    of_spec(settings, prepared)
}

/// Adds the appliance packages that a spec needs to the settings.
fn of_spec(mut settings: Settings, prepared: &Prepared) -> Settings {
    settings.appliance_packages.extend(prepared.lowered.packages.iter().cloned());
    settings
}

/// Builds a spec as the base image of layers.
///
/// # Errors
/// Fails if the spec is invalid, or if the build fails.
pub(crate) async fn build_base(
    args: &VmdbArgs,
    base: &BaseBuild<'_>,
    console: Console,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    let options = options(args, base.project.to_owned(), &base.settings.cache_dir)?;
    let prepared = prepare(&options)?;
    let settings = of_spec(base.settings.clone(), &prepared);
    build(args, &prepared, &settings, ctx.clone(), console).await.map(drop)
}

/// Reads a spec, and refuses one that needs no machine.
fn prepare(options: &Options) -> Result<Prepared, CommandError> {
    let prepared = vmdb::prepare(options, &mut std::io::stdin())?;
    if prepared.is_local() {
        return Err(CommandError::usage("the spec only speaks, so there is nothing to plan"));
    }
    Ok(prepared)
}

/// Returns the plan of a spec, for verbs that inspect it.
///
/// # Errors
/// Fails if the spec cannot be read or is invalid, or if it needs no machine.
pub(crate) fn plan(args: &VmdbArgs, ctx: &RunContext) -> Result<Planned, CommandError> {
    let cache_dir = options::cache_dir(&args.builder.guest.cache_dir);
    let prepared = prepare(&options(args, working_folder()?, &cache_dir)?)?;
    container::archive(args.load_into, args.formats.as_ref())?;
    warn(&prepared, ctx);
    let settings = settings(args, &prepared);
    let plan = prepared.lowered.plan;
    Ok(Planned::new(plan, settings))
}

fn warn(prepared: &Prepared, ctx: &RunContext) {
    for warning in &prepared.lowered.warnings {
        ctx.warn(warning.show(&prepared.source));
    }
    for note in &prepared.lowered.notes {
        ctx.warn(note.clone());
    }
}

/// Returns the settings of the view. Only the narrator writes to standard output, so progress is
/// shown only in the live view, which is on standard error, and only without `-v`.
fn view(args: &VmdbArgs, settings: &Settings, console: &Console) -> ui::Settings {
    let live = console.stdout_is_terminal && console.stderr_is_terminal && !args.verbose;
    ui::Settings {
        verbosity: Verbosity { quiet: !live, output: false, debug: 0, wrap: false },
        colours: false,
        log: args.log.clone().or_else(|| logs::new_log(&settings.cache_dir)),
        json: None,
    }
}

async fn build(
    args: &VmdbArgs,
    prepared: &Prepared,
    settings: &Settings,
    ctx: RunContext,
    console: Console,
) -> Result<Vec<output::Written>, CommandError> {
    warn(prepared, &ctx);
    let teller = Arc::new(Teller {
        ctx: ctx.clone(),
        console: args.verbose.then_some(console),
        shows_output: args.wording == WordingArg::V041,
        state: Mutex::new(State {
            narrator: Narrator::new(prepared.lowered.narration.clone()),
            stage: None,
        }),
    });
    teller.tell(|narrator| narrator.begin());
    let heard = RunContext { observer: teller.clone(), cancel: ctx.cancel };
    let outcome = pipeline::build(&prepared.lowered.plan, settings, &heard).await;
    teller.tell(|narrator| narrator.end(outcome.is_ok()));
    outcome.map_err(|error| match teller.stage().and_then(|stage| prepared.place_of_stage(stage)) {
        Some(place) => error.context(format!("the build failed at {place}")),
        None => error,
    })
}

/// Runs a spec whose steps only print messages or fail, which needs no machine.
fn run_local(console: &Console, args: &VmdbArgs, prepared: &Prepared) -> Outcome {
    let ui = Ui::open(
        &ui::Settings {
            verbosity: Verbosity { quiet: true, output: false, debug: 0, wrap: false },
            colours: false,
            log: args.log.clone(),
            json: None,
        },
        console,
    )?;
    for warning in &prepared.lowered.warnings {
        ui.warning(warning.show(&prepared.source));
    }
    let local = prepared.lowered.narration.run_local();
    for line in &local.lines {
        if args.verbose {
            console.print(&format!("{line}\n"))?;
        }
        ui.message(line);
    }
    let Some(step) = local.failed else {
        ui.succeeded();
        return Ok(0);
    };
    let text = step.says.clone().unwrap_or_else(|| "the step is made to fail".to_owned());
    let place = prepared.place_of_step(&step);
    let error =
        CommandError::message(Kind::Build, text).context(format!("the build failed at {place}"));
    ui.failed(&error);
    Err(CommandError { told: true, ..error })
}

fn working_folder() -> Result<PathBuf, CommandError> {
    std::env::current_dir().map_err(|error| {
        CommandError::new(Kind::Host, error).context("cannot find the working folder")
    })
}

fn options(args: &VmdbArgs, directory: PathBuf, cache_dir: &Path) -> Result<Options, CommandError> {
    Ok(Options {
        spec: args.spec.clone().unwrap_or_default(),
        output: args.output.clone(),
        image: args.image.clone(),
        rootfs_tarball: args.rootfs_tarball.clone(),
        variables: args.variable.clone(),
        formats: args
            .formats
            .iter()
            .flat_map(|formats| &formats.0)
            .copied()
            .map(formats::for_vmdb)
            .collect(),
        docker_target: args.docker_target.clone(),
        compress: !args.uncompressed,
        format_options: args.qemu_img_options.clone(),
        checksums: args.checksum.iter().copied().map(ChecksumKind::into_plan).collect(),
        lenient: args.lenient,
        wording: match args.wording {
            WordingArg::V026 => Wording::V026,
            WordingArg::V041 => Wording::V041,
        },
        arch: MachineArchitecture::of_host().to_string(),
        allowed: host_paths::allowed(&args.host_paths)?,
        broad: host_paths::broad(),
        shares: args
            .share
            .iter()
            .map(|share| vmdb::Share {
                host: directory.join(&share.host),
                guest: share.guest(&directory),
            })
            .collect(),
        shares_folder: !args.no_share_spec,
        written: args.log.iter().cloned().chain([cache_dir.to_owned()]).collect(),
        directory,
    })
}

/// An observer that forwards events, and prints the messages that vmdb2 would print.
struct Teller {
    ctx: RunContext,
    console: Option<Console>,
    /// Whether the output of commands is printed too, as in vmdb2 since 0.28.
    shows_output: bool,
    state: Mutex<State>,
}

struct State {
    narrator: Narrator,
    stage: Option<usize>,
}

impl Teller {
    fn tell(&self, say: impl FnOnce(&mut Narrator) -> Vec<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = say(&mut state.narrator);
        if let Some(console) = &self.console {
            // Errors are ignored, as for progress: the build continues without a reader.
            lines.iter().for_each(|line| drop(console.print(&format!("{line}\n"))));
        }
    }

    fn stage(&self) -> Option<usize> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stage
    }
}

impl Observer for Teller {
    fn event(&self, event: &Event) {
        match event {
            Event::StageStarted { index, .. } | Event::StageCached { index, .. } => {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).stage = Some(*index);
                self.tell(|narrator| narrator.stage(*index));
            }
            Event::ScriptStarted { .. } => {
                self.tell(|narrator| narrator.command().into_iter().collect());
            }
            Event::OutputLine { line, .. } if self.shows_output => {
                self.tell(|_| vec![Printable::output_line(line).into()]);
            }
            _ => {}
        }
        self.ctx.observer.event(event);
    }
}
