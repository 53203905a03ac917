//! Decides which stages can be skipped, and explains why the others cannot.
//!
//! A build resumes from the last stage whose disks are saved under the stage's present key and may
//! be used ([`super::policy`]). Stages with effects on the host (exported trees, fetched
//! directories) are never skipped. A build as a whole can be skipped by the caller, which keeps the
//! finished files.

use std::time::SystemTime;

use checked::Printable;
use plan::{
    Inputs, Keep, Plan, Point, RunParts, Stage, StageKey, Step, changed_inputs, stage_inputs,
};
use store::{RecordKind, StageRecord, StoreError};

use super::{
    config::Cache,
    policy::{Refresh, check_use, first_always},
    record::SavedRecord,
    why::Why,
};

/// The stages of a plan that will run, and the result from which the build starts.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// The key of each stage.
    pub keys: Vec<StageKey>,
    /// The reason why each stage runs; `None` for stages that do not run.
    pub reasons: Vec<Option<Why>>,
    /// The position and record of the last stage that does not run, if the build starts from its
    /// disks.
    pub resume: Option<(usize, StageRecord)>,
    /// The checkpoint within a stage, if the build starts from its disks.
    pub point: Option<ResumePoint>,
}

/// A checkpoint within a stage from which a build resumes.
#[derive(Debug, Clone)]
pub struct ResumePoint {
    /// The position of the stage in the plan.
    pub index: usize,
    /// The script that runs first after resuming.
    pub script: String,
    /// The checkpoint's record.
    pub(crate) record: StageRecord,
}

impl Forecast {
    /// Returns the first stage that runs.
    #[must_use]
    pub fn first(&self) -> usize {
        let behind = self.resume.as_ref().map_or(0, |(index, _)| index + 1);
        self.point.as_ref().map_or(behind, |point| point.index)
    }

    /// Returns the points within a stage at which it can be saved, with their keys.
    pub(crate) fn points(
        &self,
        plan: &Plan,
        cache: &Cache,
        index: usize,
    ) -> Vec<(Point, StageKey)> {
        points(plan, cache, &self.keys, index)
    }

    /// Whether the store has results of stages that run which must not be used again, because they
    /// are too old, from an untrusted cache, or refreshed by the user.
    #[must_use]
    pub(crate) fn outdated(&self) -> bool {
        self.reasons.iter().any(|why| {
            matches!(why, Some(Why::Expired(_) | Why::Clock | Why::Refresh | Why::Untrusted { .. }))
        })
    }
}

/// Looks up the stages of a plan in the store.
///
/// # Errors
/// Fails if the store cannot be read.
pub fn forecast(plan: &Plan, cache: &Cache, now: SystemTime) -> Result<Forecast, StoreError> {
    forecast_until(plan, cache, now, plan.stages.len())
}

/// Like [`forecast`], but the build resumes only from stages before `end`.
pub(crate) fn forecast_until(
    plan: &Plan,
    cache: &Cache,
    now: SystemTime,
    end: usize,
) -> Result<Forecast, StoreError> {
    let keys = StageKey::of_plan(plan, &cache.surroundings);
    let count = plan.stages.len();
    let refreshed = match &cache.rules.refresh {
        Refresh::Nothing => None,
        Refresh::Everything => Some(0),
        Refresh::From(name) => plan.stages.iter().position(|stage| stage.name == *name),
    };
    let always = first_always(plan);
    let limit = refreshed.unwrap_or(count).min(always.unwrap_or(count)).min(end);
    let mut own: Vec<Option<Why>> = vec![None; count];
    if let Some(index) = always {
        let never_kept = plan.stages[index].keep == Keep::No;
        own[index] = Some(if never_kept { Why::NeverKept } else { Why::Output });
    }
    if let Some(index) = refreshed {
        own[index] = Some(Why::Refresh);
    }
    let (mut resume, mut point) = (None, None);
    for index in (0..limit).rev() {
        if let Some(record) = cache.lease.lookup(&keys[index].0)? {
            if let Err(why) = check_use(&record, &cache.rules, now) {
                own[index] = Some(why);
            } else if record.resumable() {
                resume = Some((index, record));
                break;
            } else {
                own[index] = Some(Why::NotKept);
            }
        }
        point = last_point(plan, cache, &keys, index, now)?;
        if point.is_some() {
            break;
        }
    }
    let mut forecast = Forecast { keys, reasons: vec![None; count], resume, point };
    let first = forecast.first();
    if first < count {
        let known = latest(plan, cache)?;
        for (index, stage) in plan.stages.iter().enumerate().skip(first) {
            let inputs = stage_inputs(plan, stage, &cache.surroundings);
            // Of several runs, compare with the most similar one, and among equals the latest.
            let changed = known
                .iter()
                .filter(|(name, _)| *name == name_of(stage))
                .map(|(_, old)| changed_inputs(old, &inputs))
                .min_by_key(Vec::len);
            forecast.reasons[index] = Some(match (own[index].take(), changed) {
                (
                    Some(
                        why @ (Why::Refresh | Why::Expired(_) | Why::Clock | Why::Untrusted { .. }),
                    ),
                    _,
                ) => why,
                (_, Some(names)) if !names.is_empty() => Why::Changed(names),
                (Some(why), _) => why,
                _ if index > first => Why::Follows(plan.stages[index - 1].name.clone()),
                (None, Some(_)) => Why::NotKept,
                (None, None) => Why::NeverBuilt,
            });
        }
    }
    Ok(forecast)
}

fn points(plan: &Plan, cache: &Cache, keys: &[StageKey], index: usize) -> Vec<(Point, StageKey)> {
    let before = index.checked_sub(1).map(|before| keys[before]);
    StageKey::points(plan, &cache.surroundings, index, before)
}

/// Finds the last checkpoint within a stage from which a build can resume.
fn last_point(
    plan: &Plan,
    cache: &Cache,
    keys: &[StageKey],
    index: usize,
    now: SystemTime,
) -> Result<Option<ResumePoint>, StoreError> {
    for (point, key) in points(plan, cache, keys, index).into_iter().rev() {
        let Some(record) = cache.lease.lookup(&key.0)? else { continue };
        if !record.resumable() || check_use(&record, &cache.rules, now).is_err() {
            continue;
        }
        let Step::RunParts(parts) = &plan.stages[index].steps[point.step] else { continue };
        if let Some(script) = next_script(&record, point, parts) {
            return Ok(Some(ResumePoint { index, script, record }));
        }
    }
    Ok(None)
}

/// Returns the script with which a phase resumes at a checkpoint. `None` if the checkpoint does not
/// fit: the plan now has a script that would have run earlier.
fn next_script(record: &StageRecord, point: Point, parts: &RunParts) -> Option<String> {
    let saved: SavedRecord = serde_json::from_value(record.state.clone()).ok()?;
    let progress = saved.progress.filter(|progress| progress.step == point.step)?;
    if progress.scripts.in_place(parts) != point.scripts {
        return None;
    }
    progress.scripts.next(parts).map(str::to_owned)
}

/// Returns the names and inputs of the recorded stages of builds with this name, the latest first.
fn latest(plan: &Plan, cache: &Cache) -> Result<Vec<(Printable, Inputs)>, StoreError> {
    let mut records = cache.lease.store().records()?;
    let build = Printable::from(plan.name.as_str());
    records.retain(|(_, record)| record.build == build && record.kind == RecordKind::Stage);
    records.sort_by_key(|(_, record)| std::cmp::Reverse(record.created));
    Ok(records.into_iter().map(|(_, record)| (record.name, record.inputs)).collect())
}

/// Returns the name of a stage in the form that records contain.
pub(crate) fn name_of(stage: &Stage) -> Printable {
    stage.name.as_str().into()
}

#[cfg(test)]
mod tests;
