//! What of a plan need not run, because the store has it, and why the rest must.
//!
//! A build goes on from the last stage whose disks are kept, under the key that
//! the stage has now, and whose use of the network is young enough. Stages with
//! effects on the host (exported trees, fetched directories) are never skipped;
//! that nothing at all must run is known to whoever keeps the finished files.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use checked::Printable;
use plan::{
    Inputs, Keep, Plan, Point, RunParts, Stage, StageKey, Step, Surroundings, changed_inputs,
    stage_inputs,
};
use store::{Connection, KeyId, Origin, RecordKind, Session, StageRecord, StoreError};

use crate::caching::SavedRecord;

/// Inputs that a reason names; the rest are counted.
const NAMED_INPUTS: usize = 3;

/// The store and the rules of its use by one build.
#[derive(Debug, Clone)]
pub struct Cache {
    /// The store.
    pub session: Arc<Session>,
    /// The rules.
    pub rules: Rules,
    /// What the steps can see beside the plan.
    pub surroundings: Surroundings,
    /// Connections of the guest, as they end.
    pub connections: Connections,
}

/// Bytes of memory for the connections of one stage. A package costs some 400, so this
/// is room for 40,000 downloads.
const CONNECTIONS_MAX_BYTES: usize = 16 << 20;

/// Connections that have ended and belong to no stage yet.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<Ledger>>);

/// Connections within a budget, and the number of those beyond it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) connections: Vec<Connection>,
    pub(crate) more: u64,
    bytes: usize,
}

impl Ledger {
    /// A ledger of what a record has.
    pub(crate) fn resumed(connections: Vec<Connection>, more: u64) -> Self {
        let bytes = connections.iter().map(Connection::cost_bytes).sum();
        Self { connections, more, bytes }
    }

    fn push(&mut self, connection: Connection) {
        let bytes = self.bytes + connection.cost_bytes();
        if bytes > CONNECTIONS_MAX_BYTES {
            self.more += 1;
        } else {
            self.bytes = bytes;
            self.connections.push(connection);
        }
    }

    /// Adds those of another ledger.
    pub(crate) fn extend(&mut self, other: Self) {
        other.connections.into_iter().for_each(|connection| self.push(connection));
        self.more += other.more;
    }
}

impl Connections {
    /// Takes note of one.
    pub fn push(&self, connection: Connection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    pub(crate) fn take(&self) -> Ledger {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What may be taken from the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// How old what came over the network may be; any age without.
    pub max_age: Option<Duration>,
    /// What runs again in any case.
    pub refresh: Refresh,
    /// Whose results are used.
    pub trust: Trust,
}

/// Which results of shared caches are used. What was built here always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trust {
    /// The key that signed results must be signed with, if one is configured.
    pub key: Option<KeyId>,
    /// Whether results count that nobody has signed.
    pub unsigned: bool,
}

impl Trust {
    /// Whether a result is used. One that was signed stays trusted when no key is
    /// configured: the user had named the key when it came.
    fn covers(&self, origin: Option<&Origin>) -> bool {
        match origin.map(|origin| origin.key) {
            None => true,
            Some(None) => self.unsigned,
            Some(signed) => self.key.is_none() || self.key == signed,
        }
    }
}

/// What runs again although the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Refresh {
    /// Nothing.
    #[default]
    Nothing,
    /// Everything.
    Everything,
    /// A stage and all behind it.
    From(String),
}

/// Why a stage runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Nothing is known about a stage of this name of this build.
    NeverBuilt,
    /// These inputs have changed since it ran.
    Changed(Vec<Printable>),
    /// A stage before it runs.
    Follows(String),
    /// What it took from the network is so old.
    Expired(Duration),
    /// It was made in the future: a clock was set back.
    Clock,
    /// It came from a shared cache that is not trusted any more.
    Untrusted {
        /// The shared cache.
        place: Printable,
        /// Whether it was signed, with another key than the one that is configured.
        signed: bool,
    },
    /// The user said so.
    Refresh,
    /// It ran before, but its disks were not worth keeping, or are kept no more.
    NotKept,
    /// It writes to the host.
    Output,
    /// The plan says so: [`plan::Keep::No`].
    NeverKept,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("it was not built before"),
            Self::Changed(names) => {
                f.write_str("changed: ")?;
                for (index, name) in names.iter().take(NAMED_INPUTS).enumerate() {
                    write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
                }
                match names.len().saturating_sub(NAMED_INPUTS) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::Follows(stage) => write!(f, "it follows {stage}"),
            Self::Expired(age) => write!(
                f,
                "what came over the network is {} h old, more than --max-age",
                age.as_secs() / 3600
            ),
            Self::Clock => f.write_str("it was made in the future; the clock was set back"),
            Self::Untrusted { place, signed: false } => {
                write!(f, "it came unsigned from {place}; --remote-unsigned permits that")
            }
            Self::Untrusted { place, signed: true } => {
                write!(f, "it came from {place}, signed with another key than --remote-key")
            }
            Self::Refresh => f.write_str("--refresh"),
            Self::NotKept => f.write_str("its result was not kept"),
            Self::Output => f.write_str("it writes to the host"),
            Self::NeverKept => f.write_str("its recipe says that it is never kept"),
        }
    }
}

/// What will happen to the stages of a plan.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// The keys of the stages.
    pub keys: Vec<StageKey>,
    /// Why each stage runs; `None` for those that do not.
    pub reasons: Vec<Option<Why>>,
    /// The last stage that does not run, when its disks are what the build starts from.
    pub resume: Option<(usize, StageRecord)>,
    /// A point within a stage, when its disks are what the build starts from.
    pub point: Option<KeptPoint>,
}

/// A point within a stage from which a build goes on.
#[derive(Debug, Clone)]
pub struct KeptPoint {
    /// The stage.
    pub index: usize,
    /// The script that is next there.
    pub script: String,
    /// What is known about it.
    pub(crate) record: StageRecord,
}

impl Forecast {
    /// The first stage that runs.
    #[must_use]
    pub fn first(&self) -> usize {
        let behind = self.resume.as_ref().map_or(0, |(index, _)| index + 1);
        self.point.as_ref().map_or(behind, |point| point.index)
    }

    /// The keys of the points within a stage.
    pub(crate) fn points(
        &self,
        plan: &Plan,
        cache: &Cache,
        index: usize,
    ) -> Vec<(Point, StageKey)> {
        points(plan, cache, &self.keys, index)
    }

    /// Whether results of stages that run are in the store but must not be used
    /// again, because they are too old or unwanted.
    #[must_use]
    pub(crate) fn outdated(&self) -> bool {
        self.reasons.iter().any(|why| {
            matches!(why, Some(Why::Expired(_) | Why::Clock | Why::Refresh | Why::Untrusted { .. }))
        })
    }
}

/// Whether a record may be used, by its origin and its age.
///
/// # Errors
/// Why not.
pub fn check_use(record: &StageRecord, rules: &Rules, now: SystemTime) -> Result<(), Why> {
    if let Some(origin) = record.origin.as_ref().filter(|origin| !rules.trust.covers(Some(origin)))
    {
        let (place, signed) = (origin.place.clone(), origin.key.is_some());
        return Err(Why::Untrusted { place, signed });
    }
    let Some(max_age) = rules.max_age else { return Ok(()) };
    match record.age(now) {
        Some(age) if age <= max_age => Ok(()),
        Some(age) => Err(Why::Expired(age)),
        None => Err(Why::Clock),
    }
}

/// Looks what of a plan is in the store.
///
/// # Errors
/// When the store cannot be read.
pub fn forecast(plan: &Plan, cache: &Cache, now: SystemTime) -> Result<Forecast, StoreError> {
    forecast_until(plan, cache, now, plan.stages.len())
}

/// As [`forecast`], going on from no stage at or behind `end`.
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
        if let Some(record) = cache.session.lookup(&keys[index].0)? {
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
            // Of several runs, the one that is most like this, the latest of these.
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

/// The last point within a stage from which it can go on.
fn last_point(
    plan: &Plan,
    cache: &Cache,
    keys: &[StageKey],
    index: usize,
    now: SystemTime,
) -> Result<Option<KeptPoint>, StoreError> {
    for (point, key) in points(plan, cache, keys, index).into_iter().rev() {
        let Some(record) = cache.session.lookup(&key.0)? else { continue };
        if !record.resumable() || check_use(&record, &cache.rules, now).is_err() {
            continue;
        }
        let Step::RunParts(parts) = &plan.stages[index].steps[point.step] else { continue };
        if let Some(script) = next_script(&record, point, parts) {
            return Ok(Some(KeptPoint { index, script, record }));
        }
    }
    Ok(None)
}

/// The script that a phase goes on with at a point. None when the point is none of
/// this phase: a script that was found in the directory has run there, and one that
/// the plan has got since would have run before it.
fn next_script(record: &StageRecord, point: Point, parts: &RunParts) -> Option<String> {
    let saved: SavedRecord = serde_json::from_value(record.state.clone()).ok()?;
    let progress = saved.progress.filter(|progress| progress.step == point.step)?;
    if progress.scripts.in_place(parts) != point.scripts {
        return None;
    }
    progress.scripts.next(parts).map(str::to_owned)
}

/// The inputs of the latest run of each stage of a build of this name.
fn latest(plan: &Plan, cache: &Cache) -> Result<Vec<(Printable, Inputs)>, StoreError> {
    let mut records = cache.session.store().records()?;
    let build = Printable::from(plan.name.as_str());
    records.retain(|(_, record)| record.build == build && record.kind == RecordKind::Stage);
    records.sort_by_key(|(_, record)| std::cmp::Reverse(record.created));
    Ok(records.into_iter().map(|(_, record)| (record.name, record.inputs)).collect())
}

/// The first stage that cannot be skipped: it does something on the host, or the
/// plan says that its result is never kept. What follows it has no other start.
pub(crate) fn first_always(plan: &Plan) -> Option<usize> {
    let effects = |step: &Step| matches!(step, Step::Fetch { .. } | Step::ExportTree { .. });
    plan.stages.iter().position(|stage| stage.keep == Keep::No || stage.steps.iter().any(effects))
}

/// The name of a stage as records have it.
pub(crate) fn name_of(stage: &Stage) -> Printable {
    stage.name.as_str().into()
}

#[cfg(test)]
mod tests;
