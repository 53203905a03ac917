//! `vbuild b9 build`: builds artifacts in the order of their files, and in parallel where the order
//! makes no difference.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Instant};

use b9::{
    Images, LogLevel,
    types::{ArtifactAssembly, ImageDestination, ImageSource},
};

use super::{
    args::{B9BuildArgs, B9PlanArgs, CommonArgs, GuestArgs},
    configuration::Configuration,
    host_files::HostFiles,
    images::{self, Surroundings},
    jobs,
    narration::Narrator,
    place::RunPlace,
    recipe::{Artifact, Recipe},
    remotes,
    repository::Cache,
    seeds,
    turns::{Turns, Voice},
};
use crate::{
    build::{checks, logs, options, pipeline, planned::Planned, runtime},
    commands::context::{Outcome, ProcessContext},
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
    ui::{self, Console, Ui, Verbosity},
};

/// Returns the settings of a machine that the command line gives.
pub(super) fn guest_settings(args: &GuestArgs) -> Settings {
    let GuestArgs { cache_dir, machine, no_network, reach, source } = args;
    let appliance =
        options::appliance_settings(&machine.accel, &machine.packages, source, cache_dir);
    Settings {
        vcpus: machine.processors.smp.unwrap_or(appliance.vcpus),
        memory_mib: machine.memory.memsize.unwrap_or(appliance.memory_mib),
        network: !no_network,
        ..options::with_reach(appliance, reach)
    }
}

/// Returns the settings of a build that the command line gives.
pub(crate) fn build_settings(args: &B9BuildArgs) -> Settings {
    let settings = Settings { keep_sync: args.keep_sync, ..guest_settings(&args.guest) };
    options::with_reuse(settings, &args.reuse)
}

/// Raises the memory to the minimum of the configuration, if the command line does not set it.
pub(super) fn with_configuration(
    settings: Settings,
    args: &GuestArgs,
    configuration: &Configuration<'_>,
) -> Settings {
    let least =
        configuration.config.guest_ram_mib.filter(|_| args.machine.memory.memsize.is_none());
    Settings { memory_mib: settings.memory_mib.max(least.unwrap_or(0)), ..settings }
}

/// Returns the settings of the view. Only the narrator writes to standard output, so progress is
/// shown only in the live view, which is on standard error, and only without `-v` and `-q`.
fn view(
    common: &CommonArgs,
    args: &B9BuildArgs,
    settings: &Settings,
    console: &Console,
) -> ui::Settings {
    let live = console.stdout_is_terminal
        && console.stderr_is_terminal
        && !common.verbose
        && !common.quiet;
    ui::Settings {
        verbosity: Verbosity { quiet: !live, output: false, debug: 0, wrap: false },
        colours: false,
        log: logs::new_log(&settings.cache_dir),
        json: args.machine_readable.clone(),
    }
}

/// Builds the artifacts.
///
/// # Errors
/// Fails if a file is invalid. If artifacts fail, returns the error of the first of them.
pub(super) fn run(context: &ProcessContext, common: &CommonArgs, args: &B9BuildArgs) -> Outcome {
    let configuration = Configuration::read(context, common)?;
    if let Some(repository) = configuration.repository()? {
        remotes::check(&repository)?;
    }
    let settings = with_configuration(build_settings(args), &args.guest, &configuration);
    let console = context.console.shared_with_shell(settings.may_open_shell());
    let ui = Arc::new(Ui::open(&view(common, args, &settings, &console), &console)?);
    runtime::run_attempts(&ui, async |ctx| {
        let log = configuration.log_file();
        let narrator = Narrator::new(
            context.console,
            configuration.level(),
            log.as_deref(),
            Arc::clone(&ctx.observer),
        )?;
        let narrator = Arc::new(narrator);
        let ctx = RunContext { observer: narrator.clone(), cancel: ctx.cancel.clone() };
        let began = Instant::now();
        let built = build(args, &configuration, &settings, &narrator, &ctx).await;
        if let Err(error) = &built {
            narrator.say(LogLevel::Error, &error.to_string());
        }
        narrator.say(LogLevel::Info, &format!("DURATION: {}s", began.elapsed().as_secs()));
        built
    })?;
    Ok(0)
}

async fn build(
    args: &B9BuildArgs,
    configuration: &Configuration<'_>,
    settings: &Settings,
    narrator: &Arc<Narrator>,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    for note in configuration.without_effect() {
        narrator.say(LogLevel::Debug, &note);
    }
    let host = HostFiles::of(&args.recipe)?;
    let cache = Cache::new(configuration.cache()?);
    let place = RunPlace::made(configuration)?;
    let recipe = runtime::until_signalled(ctx, || {
        Recipe::read(&args.recipe, &place, &place.instances(), &host, settings, ctx)
    })?;
    let allowed = args.recipe.backing.allowed();
    let around = Surroundings {
        configuration,
        place: &place,
        host: &host,
        cache: &cache,
        settings,
        allowed: &allowed,
        makes: true,
    };
    check(&recipe, around, ctx)?;
    for artifact in &recipe.artifacts {
        artifact.write_generated()?;
    }
    let at_once = jobs::limit(args.jobs, settings).min(recipe.artifacts.len());
    if args.jobs.is_some_and(|wanted| wanted > at_once) && at_once < recipe.artifacts.len() {
        ctx.say(format!(
            "{at_once} artifacts at once: machines of {} MiB do not find more memory, or a shell may \
             be opened",
            settings.memory_mib
        ));
    }
    let turns = Turns::new(Arc::clone(narrator), recipe.artifacts.len());
    let waits = jobs::order(&recipe.artifacts, &host.here);
    let runtime = tokio::runtime::Handle::current();
    // Each artifact has a thread of its own, because much of its work blocks on disk I/O without
    // being asynchronous.
    tokio::task::block_in_place(|| {
        jobs::side_by_side(&waits, at_once, |number| {
            let voice = Arc::new(turns.voice(number));
            let ctx = RunContext { observer: voice.clone(), cancel: ctx.cancel.clone() };
            let artifact = &recipe.artifacts[number];
            let built = runtime.block_on(build_artifact(artifact, &recipe, around, &voice, &ctx));
            turns.done(number, built.is_ok());
            built
        })
    })
    .inspect_err(|_| turns.end())
}

async fn build_artifact(
    artifact: &Artifact,
    recipe: &Recipe,
    around: Surroundings<'_>,
    voice: &Voice,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    if let ArtifactAssembly::CloudInit(types, path) = &artifact.instance.assembly {
        return seeds::write(artifact, types, path, around.host, voice);
    }
    build_images(artifact, recipe, around, voice, ctx).await.map_err(|error| {
        let (id, build_id) = (&artifact.instance.id.text, &around.place.build_id);
        error.context(format!("Error creating 'VmImages' for instance '{id}-{build_id}'"))
    })
}

async fn build_images(
    artifact: &Artifact,
    recipe: &Recipe,
    around: Surroundings<'_>,
    voice: &Voice,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    // An image that an earlier artifact shares is in the cache by now.
    let planned = runtime::until_signalled(ctx, || images::plan(artifact, recipe, around, ctx))?;
    let plan = &planned.plan;
    checks::outputs(plan, true)?;
    images::make_folders(plan)?;
    let (_, results) = pipeline::build_here(plan, around.settings, ctx).await?;
    let shared = images::deliver(artifact, &planned.filesystems, around, voice, ctx)?;
    drop(planned.held);
    if let Some(repository) = around.configuration.repository()? {
        for revision in &shared {
            remotes::push(&repository, around.cache, revision, ctx).await?;
            voice.say(LogLevel::Info, &format!("PUSHED '{}'", revision.name));
        }
    }
    match results {
        Some(results) => results.push(plan, ctx).await,
        None => Ok(()),
    }
}

/// Checks all artifacts before the first one is built: the images from which they start must exist
/// or be made by an earlier artifact, and they must be permitted to write their outputs.
fn check(recipe: &Recipe, around: Surroundings<'_>, ctx: &RunContext) -> Result<(), CommandError> {
    let mut made: BTreeSet<PathBuf> = BTreeSet::new();
    let mut shared: BTreeSet<&str> = BTreeSet::new();
    for artifact in &recipe.artifacts {
        let images = match &artifact.instance.assembly {
            ArtifactAssembly::CloudInit(types, path) => {
                seeds::check(types, path, around.host)?;
                continue;
            }
            assembly => Images::of(assembly),
        };
        let targets = images.map_or(&[][..], |images| images.targets);
        for target in targets {
            match &target.source {
                ImageSource::From(name, _) if !shared.contains(name.text.as_str()) => {
                    around.cache.newest(name, ctx)?;
                }
                ImageSource::SourceImage(image, ..) | ImageSource::CopyOnWrite(image)
                    if !made.contains(&around.host.here.join(&image.path.text)) =>
                {
                    around.host.image(&image.path)?;
                }
                _ => {}
            }
        }
        for (number, target) in targets.iter().enumerate() {
            made.extend(around.output(&target.destination, number)?.map(|output| output.path));
            if let ImageDestination::Share(name, ..) = &target.destination {
                shared.insert(&name.text);
            }
        }
    }
    Ok(())
}

/// Returns the plan of one artifact, for verbs that inspect it.
///
/// # Errors
/// Fails if a file is invalid, or if it is not clear which artifact is meant.
pub(crate) fn plan(
    context: &ProcessContext,
    args: &B9PlanArgs,
    ctx: &RunContext,
) -> Result<Planned, CommandError> {
    let configuration = Configuration::read_only(context, &args.common)?;
    let settings =
        with_configuration(build_settings(&args.build), &args.build.guest, &configuration);
    let host = HostFiles::of(&args.build.recipe)?;
    let cache = Cache::new(configuration.cache()?);
    let place = RunPlace::planned(&configuration)?;
    let files = tempfile::tempdir().map_err(|error| {
        CommandError::new(Kind::Host, error).context("cannot make the generated files")
    })?;
    let recipe = Recipe::read(&args.build.recipe, &place, files.path(), &host, &settings, ctx)?;
    let artifact = choose(&recipe, args.artifact.as_deref())?;
    artifact.write_generated()?;
    let allowed = args.build.recipe.backing.allowed();
    let around = Surroundings {
        configuration: &configuration,
        place: &place,
        host: &host,
        cache: &cache,
        settings: &settings,
        allowed: &allowed,
        makes: false,
    };
    let plan = images::plan(artifact, &recipe, around, ctx)?.plan;
    Ok(Planned { files: Some(files), makes_folders: true, ..Planned::new(plan, settings) })
}

/// Returns the artifact with an id, or without an id the only one that has images.
fn choose<'r>(recipe: &'r Recipe, id: Option<&str>) -> Result<&'r Artifact, CommandError> {
    let with_images: Vec<&Artifact> = recipe
        .artifacts
        .iter()
        .filter(|artifact| Images::of(&artifact.instance.assembly).is_some())
        .collect();
    let ids: Vec<&str> =
        with_images.iter().map(|artifact| artifact.instance.id.text.as_str()).collect();
    let known = ids.join(", ");
    match (id, with_images.as_slice()) {
        (None, []) => Err(CommandError::usage("the files describe no images, so there is no plan")),
        (None, [only]) => Ok(only),
        (None, _) => {
            Err(CommandError::usage("the files describe several artifacts, each with its own plan")
                .hint(format!("`--artifact ID` names one of {known}")))
        }
        (Some(id), _) => {
            let found = ids.iter().position(|known| *known == id);
            found.map(|index| with_images[index]).ok_or_else(|| {
                CommandError::usage(format!("the files describe no images for `{id}`"))
                    .hint(format!("there are {known}"))
            })
        }
    }
}
