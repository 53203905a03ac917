//! A build as prose: check the plan and the settings → choose the backend of the machine → find or
//! build the appliance → run the plan → write the disks → give the outputs their names.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use engine::{EngineError, events::Event};
use output::{Existing, RawFile, Target, Written};
use plan::Plan;

use super::{
    advice, checks, outputs,
    prepared::Prepared,
    progress::OutputProgress,
    shared_cache::{self, Shared},
    targets,
    trees::Trees,
};
use crate::{
    error::{CommandError, Kind},
    machine::shell,
    run_context::RunContext,
    settings::Settings,
};

/// Builds a plan and returns its outputs.
///
/// # Errors
/// Fails if a part of the build fails; existing outputs are then unchanged. If only the results
/// cannot be shared, the new outputs are complete and in place.
pub async fn build(
    plan: &Plan,
    settings: &Settings,
    ctx: &RunContext,
) -> Result<Vec<Written>, CommandError> {
    let (written, shared) = build_here(plan, settings, ctx).await?;
    // Share the results last: a cache that cannot be reached must not cost the build.
    if let Some(shared) = shared {
        shared.push(plan, ctx).await?;
    }
    Ok(written)
}

/// Same as [`build`], but leaves sharing the results to the caller, who may first use the outputs.
pub(crate) async fn build_here(
    plan: &Plan,
    settings: &Settings,
    ctx: &RunContext,
) -> Result<(Vec<Written>, Option<Shared>), CommandError> {
    checks::outputs(plan, false)?;
    let before = checks::settings(plan, settings)?;
    let targets = targets::of_plan(plan);
    let shared = shared_cache::open(settings)?;
    let mut machine = Prepared::new(plan, settings, ctx).await?;
    let shared = shared.zip(machine.cache.clone());
    let shared = shared.map(|(remote, cache)| Shared { remote, cache });
    if let Some(cache) = &machine.cache
        && let Some(finished) = outputs::finished(plan, &targets, cache, ctx)
    {
        tell_unchanged(plan, ctx);
        return Ok((commit(plan, finished, ctx)?, shared));
    }
    if let Some(shared) = &shared {
        shared.fetch(plan, ctx).await;
    }
    let directory = machine.build_dir.path().to_owned();
    let trees = Trees::of_plan(Arc::clone(&ctx.observer), plan);
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
            let error = hints.into_iter().fold(CommandError::from(error), CommandError::hint);
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
        let made = outputs::Made { files: &files, archives: &archives, fetched, origin };
        outputs::keep(plan, &targets, cache, made, ctx);
    }
    let directories = trees.take_directories();
    Ok((commit(plan, outputs::Finished { files, directories }, ctx)?, shared))
}

/// Gives the outputs of a failed build their names, as far as they exist: finished archives and
/// directories, and disks as the failure left them. Existing outputs are renamed with their date.
async fn keep_outputs(
    plan: &Plan,
    build_dir: &std::path::Path,
    trees: &Trees,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    let mut files = trees.take();
    for (disk, path) in engine::target_files(plan, build_dir)? {
        files.extend(write_disk(plan, disk, path, ctx).await?);
    }
    for written in output::commit(files, Existing::KeepDated)? {
        ctx.say(format!("kept {}, which is not finished", written.path.display()));
    }
    for directory in trees.take_directories() {
        let path = directory.commit()?;
        ctx.say(format!("kept {}", path.display()));
    }
    Ok(())
}

/// Opens a shell in the machine of a plan, after its first `after` stages. Stages that are not in
/// the cache run; no outputs are written.
pub(crate) async fn shell(
    plan: &Plan,
    settings: &Settings,
    ctx: &RunContext,
    after: usize,
) -> Result<(), CommandError> {
    checks::stages(plan)?;
    checks::settings(plan, settings)?;
    let machine = Prepared::new(plan, settings, ctx).await?;
    let trees = Trees::of_plan(Arc::clone(&ctx.observer), plan);
    let visit = shell::Shell::after(after);
    let config = machine.config(settings, ctx, Arc::new(trees), Some(visit))?;
    engine::run(plan, &config).await.map(drop).map_err(CommandError::from)
}

/// Gives finished outputs their names.
fn commit(
    plan: &Plan,
    finished: outputs::Finished,
    ctx: &RunContext,
) -> Result<Vec<Written>, CommandError> {
    let existing = if plan.outputs.overwrite { Existing::Replace } else { Existing::KeepDated };
    let written = output::commit(finished.files, existing)?;
    for directory in finished.directories {
        let path = directory.commit()?;
        ctx.say(format!("wrote {}", path.display()));
    }
    Ok(written)
}

/// Emits the events of a build in which no stage runs.
fn tell_unchanged(plan: &Plan, ctx: &RunContext) {
    let started = std::time::Instant::now();
    let emit = |event: Event| ctx.observer.event(&event);
    emit(Event::BuildStarted { name: plan.name.clone(), stages: plan.stages.len() });
    for (index, stage) in plan.stages.iter().enumerate() {
        emit(Event::StageCached { index, name: stage.name.clone() });
    }
    emit(Event::BuildFinished { elapsed: started.elapsed() });
}

/// Truncates a disk to the length that the build has set as a fact, if it has; see
/// [`plan::LENGTH_FACT`]. The number comes from the guest, so it is checked.
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

/// Writes all outputs that are made from one disk.
async fn write_disk(
    plan: &Plan,
    disk: plan::DiskName,
    path: PathBuf,
    ctx: &RunContext,
) -> Result<Vec<output::Pending>, CommandError> {
    let wanted: Vec<&std::path::Path> = plan
        .outputs
        .images
        .iter()
        .filter(|image| image.disk == disk)
        .map(|image| image.path.as_path())
        .collect();
    let targets: Vec<Target> = targets::of_plan(plan)
        .into_iter()
        .filter(|target| targets::is_disk(target) && wanted.contains(&target.path.as_path()))
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
        Ok(written) => written.map_err(CommandError::from),
        Err(panic) => Err(CommandError::new(Kind::Build, panic)),
    }
}

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
