//! What the record of a stage has beside its disks: the state between stages, and how far
//! a stage had come at a checkpoint.

use plan::{Salt, StageKey};
use serde::{Deserialize, Serialize};
use store::StageRecord;

use super::sealed::Sealed;
use crate::{
    State,
    steps::run_parts::{Phase, Scripts},
};

/// How far a stage had come at a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Position of the step in its stage.
    pub(crate) step: usize,
    /// Progress within the step's phase.
    pub(crate) phase: Phase,
}

/// What is saved beside the disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) state: State,
    /// The progress within a stage, at a checkpoint.
    pub(crate) progress: Option<Progress>,
}

/// [`Saved`] as records contain it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedRecord {
    pub(crate) state: State,
    pub(crate) progress: Option<ProgressRecord>,
}

/// [`Progress`] as records contain it: values of variables are sealed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgressRecord {
    pub(crate) step: usize,
    pub(crate) scripts: Scripts,
    env: Sealed,
}

impl Saved {
    /// Converts to the form of the record of this key; `None` when values cannot be sealed.
    pub(super) fn to_record(&self, salt: &Salt, key: StageKey) -> Option<serde_json::Value> {
        let sealed = |progress: &Progress| {
            Some(ProgressRecord {
                step: progress.step,
                scripts: progress.phase.scripts.clone(),
                env: Sealed::seal(salt, &key.0, &progress.phase.env)?,
            })
        };
        let progress = match &self.progress {
            None => None,
            Some(progress) => Some(sealed(progress)?),
        };
        serde_json::to_value(SavedRecord { state: self.state.clone(), progress }).ok()
    }

    /// Reads the state of a record.
    pub(super) fn of_record(record: &StageRecord, salt: &Salt) -> Result<Self, String> {
        let saved: SavedRecord =
            serde_json::from_value(record.state.clone()).map_err(|e| e.to_string())?;
        let open = |progress: ProgressRecord| {
            let env = progress.env.open(salt, &record.key);
            let env = env.ok_or("its variables were sealed by another store")?;
            Ok(Progress { step: progress.step, phase: Phase { scripts: progress.scripts, env } })
        };
        let progress = saved.progress.map(open).transpose().map_err(str::to_owned)?;
        Ok(Self { state: saved.state, progress })
    }
}
