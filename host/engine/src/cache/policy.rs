//! The policy of the cache: which results of stages are worth saving, how long chains of
//! layers may become, and which saved results a build may use.
//!
//! - At the end of a stage its disks are saved after [`STAGE_WORK_MIN`] of work since they
//!   were last saved, or if the plan asks for it.
//! - Between two scripts of a stage they are saved after [`CHECKPOINT_WORK_MIN`], and after
//!   more work the longer the chains of layers are.
//! - A running machine has at most [`LIVE_LAYERS_MAX`] layers on a disk, a disk in the store
//!   at most [`STORED_LAYERS_MAX`] before they are merged.
//! - A stage with effects on the host is never skipped, and nothing after it is saved.
//! - A result may be used if its network content is at most [`MAX_AGE_DEFAULT`] old (`--max-age`)
//!   and it comes from a cache that is trusted.

use std::time::{Duration, SystemTime};

use plan::{Keep, Plan, Stage, Step};
use store::{KeyId, Origin, StageRecord};

use super::why::Why;

/// Work since the disks were last saved after which the end of a stage saves them. A
/// snapshot pauses the guest for some tens of milliseconds, and resuming from it costs a
/// boot and the reading of the disks: below this, running the stage again is as quick.
const STAGE_WORK_MIN: Duration = Duration::from_secs(2);

/// Work since the disks were last saved after which a checkpoint is taken between two
/// scripts. The threshold grows by the same amount for every [`LAYERS_PER_SURCHARGE`]
/// layers, since each layer slows down reads for the rest of the build.
const CHECKPOINT_WORK_MIN: Duration = Duration::from_secs(4);

/// Number of layers for which the threshold of a checkpoint grows once. Chains up to this length
/// have no measurable cost.
const LAYERS_PER_SURCHARGE: usize = 4;

/// Layers reserved for the ends of stages; checkpoints within a stage may not use them.
const LAYERS_FOR_STAGES: usize = 16;

/// Maximum number of layers over the raw file of a disk of a running machine. With every layer,
/// reads of the guest may have to look into one more table, and vbuild's own VMM opens at most 64
/// layers.
const LIVE_LAYERS_MAX: usize = 48;

/// Maximum number of layers of a disk in the store. Longer chains are merged, since every layer is
/// read when a build resumes from them.
pub(crate) const STORED_LAYERS_MAX: usize = 32;

/// Maximum size of the log of a stage in the store; later output is dropped.
pub(crate) const LOG_MAX_BYTES: usize = 8 << 20;

/// Maximum memory for the connections of one stage. A download of a package costs some 400 bytes,
/// so this is enough for 40,000 downloads.
pub(crate) const CONNECTIONS_MAX_BYTES: usize = 16 << 20;

/// The default of [`Rules::max_age`], the maximum age of network content. Packages of a stable
/// release change about weekly.
pub const MAX_AGE_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whether the disks are saved at the end of a stage, after `unsaved` work, if the longest chain of
/// a disk has `files` files. The raw file counts too, so `files` is also the number of layers that
/// the chain would have after the save.
pub(crate) fn saves_stage(stage: &Stage, unsaved: Duration, files: usize) -> bool {
    let is_worth = unsaved >= STAGE_WORK_MIN || stage.keep == Keep::Disks;
    is_worth && files <= LIVE_LAYERS_MAX
}

/// Whether a checkpoint is taken between two scripts; the arguments are those of
/// [`saves_stage`].
pub(crate) fn saves_checkpoint(unsaved: Duration, files: usize) -> bool {
    let surcharge = u32::try_from(files / LAYERS_PER_SURCHARGE).unwrap_or(u32::MAX);
    unsaved >= CHECKPOINT_WORK_MIN.saturating_mul(surcharge.max(1))
        && files + LAYERS_FOR_STAGES <= LIVE_LAYERS_MAX
}

/// Returns the first stage that cannot be skipped, because it has effects on the host, or because
/// the plan forbids that its result is saved. No build can resume after it.
pub(crate) fn first_always(plan: &Plan) -> Option<usize> {
    let always =
        |stage: &Stage| stage.keep == Keep::No || stage.steps.iter().any(Step::changes_host);
    plan.stages.iter().position(always)
}

/// The rules for results that may be taken from the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// The maximum age of network content in a result; `None` for any age.
    pub max_age: Option<Duration>,
    /// The stages that run again although their results are saved.
    pub refresh: Refresh,
    /// The shared caches that are trusted.
    pub trust: Trust,
}

/// The rules for results that came from shared caches. Results that were built on this host are
/// always used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trust {
    /// The key that signed results must be signed with, if one is configured.
    pub key: Option<KeyId>,
    /// Whether unsigned results are used.
    pub unsigned: bool,
}

impl Trust {
    /// Whether a result of this origin is used. A signed result stays trusted when no key is
    /// configured any more: the user had configured its key when it was downloaded.
    fn covers(&self, origin: Option<&Origin>) -> bool {
        match origin.map(|origin| origin.key) {
            None => true,
            Some(None) => self.unsigned,
            Some(signed) => self.key.is_none() || self.key == signed,
        }
    }
}

/// The stages that run again although the store has their results.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Refresh {
    /// No stage.
    #[default]
    Nothing,
    /// Every stage.
    Everything,
    /// The stage with this name, and all stages after it.
    From(String),
}

/// Checks by its origin and its age whether a record may be used.
///
/// # Errors
/// Returns the reason if the record must not be used.
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
