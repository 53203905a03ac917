//! The content of a stage's record beside its disks: the state that stages pass on, and the
//! progress within the stage at a checkpoint.

use plan::{Salt, StageKey};
use serde::{Deserialize, Serialize};
use store::StageRecord;

use super::sealed::Sealed;
use crate::{
    State,
    steps::run_parts::{Phase, Scripts},
};

/// The progress of a stage at a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The position of the step in its stage.
    pub(crate) step: usize,
    /// The progress within the step's phase.
    pub(crate) phase: Phase,
}

/// The data that is saved beside the disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) state: State,
    /// The progress within the stage at a checkpoint; `None` at the end of a stage.
    pub(crate) progress: Option<Progress>,
}

/// The serialised form of [`Saved`] in records.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedRecord {
    pub(crate) state: State,
    pub(crate) progress: Option<ProgressRecord>,
}

/// The serialised form of [`Progress`] in records, in which the values of variables are sealed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProgressRecord {
    pub(crate) step: usize,
    pub(crate) scripts: Scripts,
    env: Sealed,
}

impl Saved {
    /// Converts to the form for the record with this key; `None` if values cannot be sealed.
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

    /// Reads the saved data of a record.
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
