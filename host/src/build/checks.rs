//! Checks a plan and its settings before anything is downloaded or started.

use engine::cache::Refresh;
use plan::Plan;

use super::{advice, shared_cache, targets};
use crate::{
    error::CommandError,
    machine::{ca, drive, network},
    settings::Settings,
};

/// Checks a plan and its outputs before any machine boots. With `makes_folders`, missing
/// directories of outputs are accepted, since they will be created.
///
/// # Errors
/// Returns all complaints in one error.
pub(crate) fn outputs(plan: &Plan, makes_folders: bool) -> Result<(), CommandError> {
    let mut complaints = of_stages(plan);
    let mut errors =
        output::check(&targets::of_plan(plan), makes_folders).err().unwrap_or_default();
    let fetched = plan.fetched().filter(|_| !makes_folders);
    errors.extend(fetched.filter_map(|to| output::check_directory(to).err()));
    complaints.extend(errors.iter().map(ToString::to_string));
    if complaints.is_empty() {
        return Ok(());
    }
    let mut error = CommandError::usage(complaints.join("\n"));
    for hint in errors.iter().filter_map(output::OutputError::hint) {
        if !error.hints.contains(&hint) {
            error = error.hint(hint);
        }
    }
    Err(error)
}

/// Checks a plan whose outputs are not written.
///
/// # Errors
/// Returns all complaints in one error.
pub(crate) fn stages(plan: &Plan) -> Result<(), CommandError> {
    match of_stages(plan).join("\n") {
        complaints if complaints.is_empty() => Ok(()),
        complaints => Err(CommandError::usage(complaints)),
    }
}

fn of_stages(plan: &Plan) -> Vec<String> {
    let tables = engine::check_tables(plan);
    let complaints = plan::check(plan);
    complaints
        .iter()
        .map(ToString::to_string)
        .chain(tables.iter().map(ToString::to_string))
        .collect()
}

/// Checks the settings of a build as far as possible before any machine boots. Returns the stages
/// before which a shell opens.
///
/// # Errors
/// Returns the first error that is found.
pub(crate) fn settings(plan: &Plan, settings: &Settings) -> Result<Vec<usize>, CommandError> {
    let before = breaks(plan, &settings.breaks)?;
    if let Refresh::From(name) = &settings.stage_cache.rules.refresh
        && plan.stage(name).is_none()
    {
        let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
        return Err(CommandError::usage(format!("--refresh: the build has no stage `{name}`"))
            .hint(format!("its stages: {}", names.join(", "))));
    }
    if let Some((missing, help)) = advice::missing_mkfs(plan, &settings.appliance_packages) {
        return Err(CommandError::usage(missing).hint(help));
    }
    network::check(settings)?;
    ca::certificates(settings)?;
    shared_cache::check(settings)?;
    if let Some(path) = &settings.drive {
        drive::check(path, settings.drive_format)?;
    }
    Ok(before)
}

/// Returns the stages before which a shell opens: for `before-PHASE` the stage that runs the phase,
/// for `after-PHASE` the one behind it.
///
/// # Errors
/// Fails if no stage runs the phase.
fn breaks(plan: &Plan, points: &[String]) -> Result<Vec<usize>, CommandError> {
    points
        .iter()
        .map(|point| {
            let (when, phase) = point.split_once('-').unwrap_or((point, ""));
            let runs = |step: &plan::Step| match step {
                plan::Step::RunParts(parts) => parts.phase.trim_end_matches(".d") == phase,
                _ => false,
            };
            let stage = plan.stages.iter().position(|stage| stage.steps.iter().any(runs));
            match (when, stage) {
                ("before", Some(stage)) => Ok(stage),
                ("after", Some(stage)) => Ok(stage + 1),
                _ => Err(CommandError::usage(format!(
                    "--debug-shell: `{point}` is no point of this build (the variable `break` means the same)"
                ))
                .hint(format!(
                    "points are after-error, and before-PHASE and after-PHASE with one of these phases: {}",
                    phases(plan).join(", ")
                ))),
            }
        })
        .collect()
}

/// Returns the phases that a plan runs, named as in `before-PHASE`.
fn phases(plan: &Plan) -> Vec<&str> {
    let phases = plan.steps().filter_map(|step| match step {
        plan::Step::RunParts(parts) => Some(parts.phase.trim_end_matches(".d")),
        _ => None,
    });
    phases.collect()
}
