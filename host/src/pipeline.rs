//! A build as prose: check every complaint at once → decide who runs the
//! machine → find or make the appliance → run the plan → write the disks →
//! give the outputs their names.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use engine::{
    ApplianceFiles, Cache, Config, EngineError, HelperDrive,
    events::{Event, SharedObserver},
};
use output::{Existing, RawFile, Target, Written};
use plan::Plan;
use tokio::sync::watch;

use crate::{
    advice, appliance, backend,
    build_dir::BuildDir,
    ca, checks, drive,
    error::{CommandError, Kind},
    network::{self, Network},
    progress::OutputProgress,
    settings::Settings,
    shared_cache::{self, Shared},
    shell, stage_cache,
    trees::Trees,
};

/// What a run needs beside its settings.
#[derive(Clone)]
pub struct Ctx {
    /// Takes events.
    pub observer: SharedObserver,
    /// Becomes true when everything shall stop.
    pub cancel: watch::Receiver<bool>,
}

impl std::fmt::Debug for Ctx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ctx").finish_non_exhaustive()
    }
}

impl Ctx {
    /// Tells the user something.
    pub fn say(&self, text: impl Into<String>) {
        self.observer.event(&Event::Message { text: text.into() });
    }

    /// Warns the user.
    pub fn warn(&self, text: impl Into<String>) {
        self.observer.event(&Event::Warning { text: text.into() });
    }
}

fn is_disk(target: &Target) -> bool {
    target.format.origin == output::Origin::Disk
}

/// What a plan writes: disk outputs first, in its order, then those of trees.
#[must_use]
pub fn targets(plan: &Plan) -> Vec<Target> {
    let checksums = checksums(plan);
    let epoch = plan.outputs.epoch;
    let disks = plan.outputs.images.iter().filter_map(|image| {
        let format = output::format(&image.format)?;
        let disk = plan.disks.iter().find(|disk| disk.name == image.disk)?;
        Some(Target {
            disk_bytes: match disk.size {
                plan::DiskSize::Bytes(bytes) => Some(bytes),
                plan::DiskSize::FactKib(_) => None,
            },
            compress: image.compress,
            options: image.options.clone(),
            checksums: checksums.clone(),
            identity: identity(epoch, &image.path),
            ..Target::new(format, &image.path)
        })
    });
    let trees = plan.steps().filter_map(|step| {
        let plan::Step::ExportTree { output: tree, .. } = step else { return None };
        let format = output::format(&tree.format)?;
        Some(Target {
            checksums: checksums.clone(),
            container: tree.target.clone(),
            identity: identity(epoch, &tree.path),
            ..Target::new(format, &tree.path)
        })
    });
    disks.chain(trees).collect()
}

/// What tells an output from others: with an epoch its name and that moment, so
/// that it is the same in every build.
pub(crate) fn identity(epoch: Option<u64>, path: &std::path::Path) -> output::Identity {
    let Some(epoch) = epoch else { return output::Identity::random() };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    output::Identity::fixed(format!("{epoch}/{name}").as_bytes(), epoch)
}

fn checksums(plan: &Plan) -> Vec<output::Checksum> {
    plan.outputs
        .checksums
        .iter()
        .map(|checksum| match checksum {
            plan::Checksum::Md5 => output::Checksum::Md5,
            plan::Checksum::Sha256 => output::Checksum::Sha256,
            plan::Checksum::Sha512 => output::Checksum::Sha512,
        })
        .collect()
}

/// Builds a plan; gives the outputs.
///
/// # Errors
/// Whatever goes wrong. Outputs that existed before are then as they were.
pub async fn build(
    plan: &Plan,
    settings: &Settings,
    ctx: &Ctx,
) -> Result<Vec<Written>, CommandError> {
    let (written, shared) = build_here(plan, settings, ctx).await?;
    // In this order: a cache that cannot be reached must not cost the build.
    if let Some(shared) = shared {
        shared.push(plan, ctx).await?;
    }
    Ok(written)
}

/// As [`build`], but leaves it to the caller to share the results, when it has
/// done with the outputs what it wants.
///
/// # Errors
/// As [`build`].
pub async fn build_here(
    plan: &Plan,
    settings: &Settings,
    ctx: &Ctx,
) -> Result<(Vec<Written>, Option<Shared>), CommandError> {
    checks::outputs(plan, false)?;
    let before = checks::settings(plan, settings)?;
    let targets = targets(plan);
    let shared = shared_cache::open(settings)?;
    let mut machine = Prepared::new(settings, ctx).await?;
    let shared = shared.zip(machine.cache.clone());
    let shared = shared.map(|(remote, cache)| Shared { remote, cache });
    if let Some(cache) = &machine.cache
        && let Some(finished) = stage_cache::finished(plan, &targets, cache, ctx)
    {
        tell_unchanged(plan, ctx);
        return Ok((commit(plan, finished, ctx)?, shared));
    }
    if let Some(shared) = &shared {
        shared.fetch(plan, ctx).await;
    }
    let directory = machine.build_dir.path().to_owned();
    let trees = Trees::new(Arc::clone(&ctx.observer), checksums(plan), plan.outputs.epoch);
    let trees = if machine.cache.is_some() { trees.with_archives(&directory) } else { trees };
    let shell = shell::Shell::running(settings.break_command.clone());
    let visit =
        settings.may_open_shell().then(|| shell.visit(None, before, settings.shell_on_failure));
    let config = machine.config(settings, ctx, Arc::new(trees.clone()), visit)?;
    let built = match engine::run(plan, &config).await {
        Ok(built) => built,
        Err(error) => {
            if settings.keep_failed {
                machine.build_dir.keep();
                ctx.say(format!("the build directory {} is kept", directory.display()));
            }
            let retry = shell.wants_retry();
            if settings.keep_failed && !retry && !matches!(error, EngineError::Cancelled) {
                keep_outputs(plan, &directory, &trees, ctx).await?;
            }
            let hints = advice::hints(plan, &error);
            let error = hints.into_iter().fold(engine_error(error), CommandError::hint);
            return Err(CommandError { retry, ..error });
        }
    };
    let mut files = trees.take();
    for (disk, path) in built.disks {
        cut(&disk, &path, &built.facts)?;
        files.extend(write_disk(plan, disk, path, ctx).await?);
    }
    if let Some(cache) = &machine.cache {
        let archives = trees.archives();
        let (fetched, origin) = (built.fetched, built.origin);
        let made = stage_cache::Made { files: &files, archives: &archives, fetched, origin };
        stage_cache::keep(plan, &targets, cache, made, ctx);
    }
    let directories = trees.take_directories();
    Ok((commit(plan, stage_cache::Finished { files, directories }, ctx)?, shared))
}

/// Gives the outputs of a failed build their names, as far as they exist: archives
/// that were finished, and disks as the failure left them. Outputs of earlier
/// builds are renamed with their date.
///
/// # Errors
/// When they cannot be written.
async fn keep_outputs(
    plan: &Plan,
    build_dir: &std::path::Path,
    trees: &Trees,
    ctx: &Ctx,
) -> Result<(), CommandError> {
    let mut files = trees.take();
    for (disk, path) in engine::target_files(plan, build_dir).map_err(engine_error)? {
        files.extend(write_disk(plan, disk, path, ctx).await?);
    }
    for written in output::commit(files, Existing::KeepDated).map_err(output_error)? {
        ctx.say(format!("kept {}, which is not finished", written.path.display()));
    }
    for directory in trees.take_directories() {
        let path = directory.commit().map_err(output_error)?;
        ctx.say(format!("kept {}", path.display()));
    }
    Ok(())
}

/// Opens a shell in the machine of a plan, after so many of its stages. What is
/// not in the cache runs; nothing is written.
///
/// # Errors
/// Whatever goes wrong on the way there.
pub async fn shell(
    plan: &Plan,
    settings: &Settings,
    ctx: &Ctx,
    after: usize,
) -> Result<(), CommandError> {
    checks::stages(plan)?;
    checks::settings(plan, settings)?;
    let machine = Prepared::new(settings, ctx).await?;
    let trees = Trees::new(Arc::clone(&ctx.observer), Vec::new(), None);
    let visit = shell::Shell::after(after);
    let config = machine.config(settings, ctx, Arc::new(trees), Some(visit))?;
    engine::run(plan, &config).await.map(drop).map_err(engine_error)
}

/// Gives finished files their names.
fn commit(
    plan: &Plan,
    finished: stage_cache::Finished,
    ctx: &Ctx,
) -> Result<Vec<Written>, CommandError> {
    let existing = if plan.outputs.overwrite { Existing::Replace } else { Existing::KeepDated };
    let written = output::commit(finished.files, existing).map_err(output_error)?;
    for directory in finished.directories {
        let path = directory.commit().map_err(output_error)?;
        ctx.say(format!("wrote {}", path.display()));
    }
    Ok(written)
}

/// The events of a build in which nothing runs.
fn tell_unchanged(plan: &Plan, ctx: &Ctx) {
    let started = std::time::Instant::now();
    let emit = |event: Event| ctx.observer.event(&event);
    emit(Event::BuildStarted { name: plan.name.clone(), stages: plan.stages.len() });
    for (index, stage) in plan.stages.iter().enumerate() {
        emit(Event::StageCached { index, name: stage.name.clone() });
    }
    emit(Event::BuildFinished { elapsed: started.elapsed() });
}

/// Everything that a run of the engine needs of this host.
#[derive(Debug)]
pub struct Prepared {
    held: Option<drive::HeldDrive>,
    /// The directory of the run.
    pub build_dir: BuildDir,
    backend: backend::Backend,
    appliance: ApplianceFiles,
    /// Results of earlier builds.
    pub cache: Option<Cache>,
}

impl Prepared {
    /// Gets it, and makes the appliance if there is none.
    ///
    /// # Errors
    /// What this host cannot give.
    pub async fn new(settings: &Settings, ctx: &Ctx) -> Result<Self, CommandError> {
        network::check(settings)?;
        let held = hold_drive(settings)?;
        let build_dir = make_build_dir(settings)?;
        let backend = backend::choose(settings, ctx).await?;
        let appliance = appliance::find_or_build(settings, &backend, &build_dir, ctx).await?;
        let cache = stage_cache::for_build(settings, &appliance, ctx)?;
        Ok(Self { held, build_dir, backend, appliance, cache })
    }

    /// The engine's configuration.
    ///
    /// # Errors
    /// Certificates or hosts that cannot be understood.
    pub fn config(
        &self,
        settings: &Settings,
        ctx: &Ctx,
        trees: Arc<dyn engine::TreeSink>,
        visit: Option<engine::Pause>,
    ) -> Result<Config, CommandError> {
        let connections = self.cache.as_ref().map(|cache| cache.connections.clone());
        let network = Network::new(settings, ctx, connections)?;
        Ok(Config {
            backend: Arc::clone(&self.backend.backend),
            accel: self.backend.description.clone(),
            appliance: self.appliance.clone(),
            vcpus: settings.vcpus,
            memory_mib: settings.memory_mib,
            helper: self
                .held
                .as_ref()
                .map(|held| HelperDrive { path: held.path.clone(), format: held.format }),
            build_dir: self.build_dir.path().to_owned(),
            network: network.map(|network| Arc::new(network) as _),
            ca_bundle: load_certificates(settings)?,
            script_timeout: settings.script_timeout,
            keep_sync: settings.keep_sync,
            fresh_machine_per_stage: settings.fresh_machine_per_stage,
            seed: settings.seed.clone(),
            verbose_console: settings.verbose_console,
            observer: Arc::clone(&ctx.observer),
            trees,
            cancel: ctx.cancel.clone(),
            cache: self.cache.clone(),
            pause: visit,
        })
    }
}

/// Leaves of a disk what a build wants to be written, where it says so: see
/// [`plan::LENGTH_FACT`]. The number comes from the guest.
fn cut(
    disk: &plan::DiskName,
    path: &std::path::Path,
    facts: &BTreeMap<String, String>,
) -> Result<(), CommandError> {
    let Some(text) = facts.get(&format!("{}{disk}", plan::LENGTH_FACT)) else { return Ok(()) };
    let host = |error: std::io::Error| {
        CommandError::new(Kind::Host, error).context(format!("cannot cut {}", path.display()))
    };
    let file = std::fs::OpenOptions::new().write(true).open(path).map_err(host)?;
    let all = file.metadata().map_err(host)?.len();
    let wanted = text.parse::<u64>().ok().and_then(|kib| kib.checked_mul(1024));
    match wanted.filter(|bytes| (1..=all).contains(bytes)) {
        Some(bytes) => file.set_len(bytes).map_err(host),
        None => {
            let text = format!("the guest says that {text:?} KiB of {disk} count, of {all} bytes");
            Err(CommandError::message(Kind::Build, text))
        }
    }
}

/// Writes all outputs of one disk.
async fn write_disk(
    plan: &Plan,
    disk: plan::DiskName,
    path: PathBuf,
    ctx: &Ctx,
) -> Result<Vec<output::Pending>, CommandError> {
    let wanted: Vec<&std::path::Path> = plan
        .outputs
        .images
        .iter()
        .filter(|image| image.disk == disk)
        .map(|image| image.path.as_path())
        .collect();
    let targets: Vec<Target> = targets(plan)
        .into_iter()
        .filter(|target| is_disk(target) && wanted.contains(&target.path.as_path()))
        .map(|target| Target { adopt: true, ..target })
        .collect();
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let progress = OutputProgress::new(Arc::clone(&ctx.observer));
    let writing = tokio::task::spawn_blocking(move || {
        let source = RawFile::open(&path)?;
        output::write_disks(&source, &targets, &progress)
    });
    match writing.await {
        Ok(written) => written.map_err(output_error),
        Err(panic) => Err(CommandError::new(Kind::Build, panic)),
    }
}

/// Takes the user's drive, if there is one.
///
/// # Errors
/// When it cannot be used.
pub fn hold_drive(settings: &Settings) -> Result<Option<drive::HeldDrive>, CommandError> {
    let Some(path) = &settings.drive else { return Ok(None) };
    drive::hold(path, settings.drive_format).map(Some).map_err(drive_error)
}

/// The error of a drive for the command line.
#[must_use]
pub fn drive_error(error: drive::DriveError) -> CommandError {
    let hint = error.hint();
    CommandError::new(Kind::Usage, error).maybe_hint(hint)
}

/// Loads the certificates that guests shall trust.
///
/// # Errors
/// When they cannot be read.
pub fn load_certificates(settings: &Settings) -> Result<Option<Vec<u8>>, CommandError> {
    settings
        .ca_bundle
        .as_ref()
        .map(ca::load)
        .transpose()
        .map_err(|error| CommandError::new(Kind::Usage, error))
}

/// What the steps of a build can see beside its plan.
///
/// # Errors
/// When certificates cannot be read.
pub fn surroundings(
    settings: &Settings,
    appliance: &ApplianceFiles,
    salt: plan::Salt,
) -> Result<plan::Surroundings, CommandError> {
    let certificates = load_certificates(settings)?;
    Ok(plan::Surroundings {
        salt,
        appliance: appliance.digest,
        network: settings.network,
        certificates: certificates.as_deref().map(plan::Digest::of),
        seed: settings.seed.clone(),
    })
}

/// Makes the directory of this run.
///
/// # Errors
/// When it cannot be made.
pub fn make_build_dir(settings: &Settings) -> Result<BuildDir, CommandError> {
    BuildDir::new(&settings.cache_dir).map_err(|error| {
        let hint = error.hint();
        CommandError::new(Kind::Host, error)
            .context("cannot make a build directory")
            .maybe_hint(hint)
            .hint("set TMPDIR or --cache-dir to a directory that you can write to")
    })
}

/// The engine's error for the command line.
#[must_use]
pub fn engine_error(error: EngineError) -> CommandError {
    let tail = error.console_tail().map(str::to_owned).filter(|tail| !tail.trim().is_empty());
    let kind = match &error {
        EngineError::Cancelled => Kind::Interrupted,
        EngineError::Script { phase, status: wire::ExitStatus::Code(code), .. }
            if phase == "extra-data.d" =>
        {
            Kind::ExtraData { status: u8::try_from(*code).unwrap_or(1) }
        }
        EngineError::HelperDrive { .. } => Kind::Usage,
        EngineError::Host { .. } => Kind::Host,
        _ => Kind::Build,
    };
    let told = matches!(error, EngineError::Script { .. });
    let mut error = CommandError::new(kind, error)
        .maybe_hint(tail.map(|tail| format!("the end of the guest's console:\n{tail}")));
    error.told = told && error.told;
    error
}

/// The output crate's error for the command line.
#[must_use]
pub fn output_error(error: output::OutputError) -> CommandError {
    let hint = error.hint();
    CommandError::new(Kind::Build, error).maybe_hint(hint)
}

/// How long a plain command in the guest may take to come down afterwards.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    /// The guest's number is taken only where it can be true.
    #[test]
    fn a_disk_is_cut_to_the_length_that_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let disk = plan::DiskName::new("image0").unwrap();
        let cut_to = |length: Option<&str>| {
            std::fs::write(&path, vec![1; 64 << 10]).unwrap();
            let name = format!("{}image0", plan::LENGTH_FACT);
            let facts = length.map(|length| (name, length.to_owned())).into_iter().collect();
            cut(&disk, &path, &facts).map(|()| std::fs::metadata(&path).unwrap().len())
        };
        assert_eq!(cut_to(None).unwrap(), 64 << 10);
        assert_eq!(cut_to(Some("64")).unwrap(), 64 << 10);
        assert_eq!(cut_to(Some("7")).unwrap(), 7 << 10);
        for bad in ["0", "65", "-1", "x", "", "18446744073709551615"] {
            let error = cut_to(Some(bad)).unwrap_err().to_string();
            assert!(error.starts_with("the guest says"), "{bad}: {error}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 64 << 10);
        }
    }
}
