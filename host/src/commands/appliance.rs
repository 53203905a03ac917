//! `vbuild appliance`: builds, shows and removes appliances, the kernels and tools that builds run
//! in.

use std::{fmt::Write as _, sync::Arc};

use ::appliance::{Cache, Manifest};
use clap::{Args, Subcommand};

use super::context::{Outcome, ProcessContext};
use crate::{
    build::{logs, options, runtime},
    cli::{AccelArgs, ArchArgs, CacheDirArgs, OutputArgs, PackageArgs, ProcessorArgs, SourceArgs},
    error::{CommandError, Kind},
    machine::{appliance, backend, build_dir::BuildDir},
    settings::{Settings, warm_machines_of},
    ui::{self, Ui, Utc, bytes},
};

/// The number of digits of a digest that are shown.
const DIGEST_DIGITS: usize = 12;

/// The arguments of `vbuild appliance`.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct ApplianceCommand {
    /// The verb to run.
    #[command(subcommand)]
    pub(crate) verb: ApplianceVerb,
}

/// The verbs of `vbuild appliance`.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub(crate) enum ApplianceVerb {
    /// Make the appliance that builds would use, or bring it up to date
    Build(Box<ApplianceBuildArgs>),
    /// Show what an appliance is made of
    Info(ApplianceInfoArgs),
    /// List the appliances in the cache
    List(ApplianceListArgs),
    /// Remove appliances and packages that no build asks for any more
    Gc(ApplianceGcArgs),
}

/// The arguments of `vbuild appliance build`.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct ApplianceBuildArgs {
    /// The architecture of the appliance.
    #[command(flatten)]
    pub(crate) arch: ArchArgs,
    /// The accelerator of the machine that configures the appliance.
    #[command(flatten)]
    pub(crate) accel: AccelArgs,
    /// The number of processors of that machine.
    #[command(flatten)]
    pub(crate) processors: ProcessorArgs,
    /// The packages of the appliance.
    #[command(flatten)]
    pub(crate) packages: PackageArgs,
    /// The sources of the packages.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The cache directory in which the appliance is kept.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
    /// The output options.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The arguments of `vbuild appliance info`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ApplianceInfoArgs {
    /// The appliance, by the first digits of its digest [default: the newest]
    #[arg(value_name = "DIGEST")]
    pub(crate) digest: Option<String>,

    /// List the packages of the appliance too
    #[arg(long)]
    pub(crate) packages: bool,

    /// The cache directory in which the appliance is kept.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
}

/// The arguments of `vbuild appliance list`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ApplianceListArgs {
    /// The cache directory in which the appliances are kept.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
}

/// The arguments of `vbuild appliance gc`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct ApplianceGcArgs {
    /// Also remove appliances that builds have asked for; the next build makes its own again
    #[arg(long)]
    pub(crate) all: bool,

    /// The cache directory in which the appliances are kept.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
}

/// Runs `vbuild appliance`.
///
/// # Errors
/// Fails if the cache cannot be read or changed, if an appliance cannot be built, or if no
/// appliance has the given digest.
pub(crate) fn run(context: &ProcessContext, command: ApplianceCommand) -> Outcome {
    match command.verb {
        ApplianceVerb::Build(args) => build(context, &args),
        ApplianceVerb::Info(args) => info(context, &args),
        ApplianceVerb::List(args) => list(context, &args),
        ApplianceVerb::Gc(args) => gc(context, &args),
    }
}

fn build(context: &ProcessContext, args: &ApplianceBuildArgs) -> Outcome {
    let appliance =
        options::appliance_settings(&args.accel, &args.packages, &args.source, &args.cache_dir);
    let vcpus = args.processors.smp.unwrap_or(appliance.vcpus);
    let settings = Settings { architecture: args.arch.machine(), vcpus, ..appliance };
    let log = args.output.logfile.clone().or_else(|| logs::new_log(&settings.cache_dir));
    let ui = Arc::new(Ui::open(&ui::Settings::of(&args.output, log), &context.console)?);
    runtime::run(&ui, async |ctx| {
        let (request, _) = appliance::request(&settings)?;
        let build_dir = BuildDir::of(&settings)?;
        let backend = backend::choose(&settings, &ctx).await?;
        appliance::build(&request, &settings, &backend, &build_dir, &ctx).await
    })?;
    Ok(0)
}

fn cache(args: &CacheDirArgs) -> Cache {
    Cache::new(&options::cache_dir(args))
}

fn info(context: &ProcessContext, args: &ApplianceInfoArgs) -> Outcome {
    let all = cache(&args.cache_dir).list()?;
    let wanted = args.digest.as_deref().unwrap_or_default().to_ascii_lowercase();
    let found = all.iter().find(|one| one.digest().starts_with(&wanted));
    let Some(found) = found else {
        let what = match &args.digest {
            Some(digest) => format!("no appliance has a digest that begins with `{digest}`"),
            None => "there is no appliance yet".to_owned(),
        };
        return Err(CommandError::usage(what).hint(
            "`vbuild appliance list` shows all of them, `vbuild appliance build` makes one",
        ));
    };
    context.console.print(&description(found.manifest(), args.packages))?;
    Ok(0)
}

fn description(manifest: &Manifest, packages: bool) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<16} {value}");
    };
    row("digest", &manifest.digest);
    row("made", &made(manifest));
    row("release", &format!("{} ({})", manifest.release, manifest.architecture));
    row("kernel", &format!("{} ({})", manifest.kernel.release, manifest.kernel.version));
    row("packages", &manifest.packages.len().to_string());
    if !manifest.extra_packages.is_empty() {
        row("asked for", &manifest.extra_packages.join(" "));
    }
    row("downloaded", &bytes(manifest.download_bytes));
    row("on disk", &bytes(manifest.root_bytes));
    if packages {
        for package in &manifest.packages {
            let _ = writeln!(text, "  {} {}", package.name, package.version);
        }
    }
    text
}

fn made(manifest: &Manifest) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(manifest.created);
    Utc::from(time).minute_stamp()
}

fn list(context: &ProcessContext, args: &ApplianceListArgs) -> Outcome {
    let all = cache(&args.cache_dir).list()?;
    let mut text = String::new();
    for one in &all {
        let manifest = one.manifest();
        let extra = manifest.extra_packages.join(" ");
        let _ = writeln!(
            text,
            "{}  {}  {:<10} Linux {:<24} {:>10}  {extra}",
            &manifest.digest[..DIGEST_DIGITS.min(manifest.digest.len())],
            made(manifest),
            manifest.release,
            manifest.kernel.release,
            bytes(manifest.root_bytes),
        );
    }
    context.console.print(&text)?;
    Ok(0)
}

fn gc(context: &ProcessContext, args: &ApplianceGcArgs) -> Outcome {
    let console = context.console;
    let mut waiting = |lock: &std::path::Path| {
        // Errors are ignored: the message only explains the delay.
        let text = format!("another vbuild uses the cache; waiting for {}\n", lock.display());
        let _ = console.print(&text);
    };
    let freed = cache(&args.cache_dir).gc(args.all, &mut waiting)?;
    // All saved machines are removed: each belongs to one appliance, and it takes only seconds to
    // make them again.
    let warm = warm_machines_of(&options::cache_dir(&args.cache_dir));
    let saved = warm.clear().map_err(|error| {
        CommandError::new(Kind::Host, error).context("cannot remove the saved machines")
    })?;
    console.print(&format!(
        "removed {} appliance{}, {} saved machine{} and {} package file{}: {}\n",
        freed.appliances,
        ui::plural(freed.appliances),
        saved,
        ui::plural(saved),
        freed.files,
        ui::plural(freed.files),
        bytes(freed.bytes)
    ))?;
    Ok(0)
}
