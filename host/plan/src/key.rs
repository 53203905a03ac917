//! Stage keys: what makes two runs of a stage the same.
//!
//! A key covers the format version, the parent's key, the appliance and the
//! stage as data. Paths of the host are no part of it: a file counts by its
//! place in the guest, its mode and its digest.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Digest, FORMAT_VERSION, FileSource, Plan, Stage, Step, UploadKind};

/// The key of a stage's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageKey(pub Digest);

impl fmt::Display for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl StageKey {
    /// The keys of all stages of a plan, in order. `appliance` is the digest of
    /// the appliance that runs it.
    ///
    /// Outputs are no part of a key: writing another format needs no new build.
    #[must_use]
    pub fn of_plan(plan: &Plan, appliance: &Digest) -> Vec<Self> {
        let mut seed = Sha256::new();
        seed.update(FORMAT_VERSION.to_le_bytes());
        seed.update(appliance.0);
        seed.update(json(&plan.disks));
        seed.update(json(&plan.helper_at));
        let mut parent = Digest(seed.finalize().into());
        plan.stages
            .iter()
            .map(|stage| {
                let mut hash = Sha256::new();
                hash.update(parent.0);
                hash.update(json(&without_host_paths(stage)));
                parent = Digest(hash.finalize().into());
                Self(parent)
            })
            .collect()
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plan types have only string keys, so they encode")
}

/// The stage with every path of the host emptied.
fn without_host_paths(stage: &Stage) -> Stage {
    let mut stage = stage.clone();
    for step in &mut stage.steps {
        match step {
            Step::Upload(upload) => {
                for entry in &mut upload.entries {
                    if let UploadKind::File { source: FileSource::Host { path, .. }, .. } =
                        &mut entry.kind
                    {
                        path.clear();
                    }
                }
            }
            Step::Fetch { to, .. } => to.clear(),
            Step::ExportTree { output, .. } => output.path.clear(),
            _ => {}
        }
    }
    stage
}
