//! Stage keys: what makes two runs of a stage the same.
//!
//! A key covers the format version, the parent's key, what the stage can see of
//! its [`Surroundings`], and the stage as data. Paths of the host are no part of
//! it: a file counts by its place in the guest, its mode and its digest. The
//! helper drive is none either, and neither is the machine's shape (processors,
//! memory, who runs it): no result may depend on them.
//!
//! Architecture invariant: an input that a step could have read is in its key,
//! or was not visible to it. What a stage uploads is visible to it and to every
//! later stage, and is in all their keys; what a later stage uploads is in none
//! of the earlier ones.

use std::{collections::BTreeMap, fmt};

use checked::Printable;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Digest, Env, FORMAT_VERSION, FileSource, Plan, Run, RunParts, Stage, Step, Upload, UploadEntry,
    UploadKind,
};

/// The key of a stage's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageKey(pub Digest);

impl fmt::Display for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What steps can see beside the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The appliance that runs them.
    pub appliance: Digest,
    /// Whether there is a network; its policy is not seen, its refusals are
    /// failures, which are not kept.
    pub network: bool,
    /// The certificates that they are given.
    pub certificates: Option<Digest>,
    /// What identifiers are derived from, if they are not random.
    pub seed: Option<String>,
}

impl Surroundings {
    fn inputs(&self) -> [(&'static str, Digest); 4] {
        [
            ("the appliance", self.appliance),
            ("whether there is a network", Digest::of(&[u8::from(self.network)])),
            ("--ca-bundle", Digest::of(&json(&self.certificates))),
            ("SOURCE_DATE_EPOCH", Digest::of(&json(&self.seed))),
        ]
    }
}

/// The names and digests of inputs, to tell which of them has changed.
pub type Inputs = BTreeMap<Printable, Digest>;

impl StageKey {
    /// The keys of all stages of a plan, in order.
    ///
    /// Image files of disks are no part of a key: writing another format needs
    /// no new build.
    #[must_use]
    pub fn of_plan(plan: &Plan, surroundings: &Surroundings) -> Vec<Self> {
        let mut parent = start(plan, surroundings);
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

    /// The key of the files that a plan leaves on the host, wherever they go.
    #[must_use]
    pub fn of_outputs(plan: &Plan, surroundings: &Surroundings) -> Self {
        let last = Self::of_plan(plan, surroundings).pop();
        let mut images = plan.outputs.images.clone();
        for image in &mut images {
            image.path.clear();
        }
        let mut hash = Sha256::new();
        hash.update(b"outputs");
        hash.update(last.map_or_else(|| start(plan, surroundings), |last| last.0).0);
        hash.update(json(&images));
        hash.update(json(&plan.outputs.checksums));
        Self(Digest(hash.finalize().into()))
    }

    /// The keys of all points within a stage, in order, given that of the stage
    /// before it.
    ///
    /// A point is reached by the stage's steps up to its phase, and by those of the
    /// phase's scripts that are in place by then; what comes later was not visible
    /// to anything that has run, and so is no part of its key.
    #[must_use]
    pub fn points(
        plan: &Plan,
        surroundings: &Surroundings,
        index: usize,
        before: Option<Self>,
    ) -> Vec<(Point, Self)> {
        let stage = without_host_paths(&plan.stages[index]);
        let mut hash = Sha256::new();
        hash.update(b"within");
        hash.update(before.map_or_else(|| start(plan, surroundings), |before| before.0).0);
        let frame = Stage { steps: Vec::new(), ..stage.clone() };
        hash.update(json(&frame));
        let mut points = Vec::new();
        for (step, content) in stage.steps.iter().enumerate() {
            let Step::RunParts(parts) = content else {
                hash.update(json(content));
                continue;
            };
            hash.update(json(&Step::RunParts(without_scripts(parts))));
            for scripts in 0..=parts.scripts.len() {
                if let Some(last) = scripts.checked_sub(1) {
                    hash.update(json(&parts.scripts[last]));
                }
                let key = Self(Digest(hash.clone().finalize().into()));
                points.push((Point { step, scripts }, key));
            }
        }
        points
    }
}

/// A place within a stage: between two scripts of one of its phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Which step the phase is.
    pub step: usize,
    /// How many of [`RunParts::scripts`] are in place.
    pub scripts: usize,
}

/// A phase without the scripts that appear one by one.
fn without_scripts(parts: &RunParts) -> RunParts {
    RunParts { scripts: Vec::new(), ..parts.clone() }
}

/// What the first stage's key continues.
fn start(plan: &Plan, surroundings: &Surroundings) -> Digest {
    let mut seed = Sha256::new();
    seed.update(FORMAT_VERSION.to_le_bytes());
    for (_, digest) in surroundings.inputs() {
        seed.update(digest.0);
    }
    seed.update(json(&disks_without_host_paths(plan)));
    seed.update(json(&plan.helper_at));
    Digest(seed.finalize().into())
}

/// The inputs of one stage by name. Whatever changes its key without its parent's
/// changes one of these.
#[must_use]
pub fn stage_inputs(plan: &Plan, stage: &Stage, surroundings: &Surroundings) -> Inputs {
    let mut inputs = Inputs::new();
    for (name, digest) in surroundings.inputs() {
        inputs.insert(name.into(), digest);
    }
    inputs.insert(
        "the disks".into(),
        Digest::of(&json(&(&disks_without_host_paths(plan), &plan.helper_at))),
    );
    inputs.insert("the stage's mounts".into(), Digest::of(&json(&(&stage.context, stage.network))));
    for step in &without_host_paths(stage).steps {
        let title = match step {
            Step::Upload(upload) => format!("upload {}", upload.what),
            Step::Fetch { from, .. } => format!("fetch {from}"),
            Step::ExportTree { output, .. } => format!("write {}", output.format),
            step => step.title(),
        };
        let rest = match step {
            Step::Upload(upload) => {
                uploaded(&mut inputs, upload);
                Digest::of(&json(&upload.to))
            }
            Step::Run(run) => {
                variables(&mut inputs, &run.env);
                Digest::of(&json(&Run { env: Env::new(), ..run.clone() }))
            }
            Step::RunParts(parts) => {
                variables(&mut inputs, &parts.env);
                for script in &parts.scripts {
                    uploaded(&mut inputs, &script.upload);
                }
                Digest::of(&json(&RunParts { env: Env::new(), ..without_scripts(parts) }))
            }
            step => Digest::of(&json(step)),
        };
        put(&mut inputs, format!("step `{title}`"), rest);
    }
    inputs
}

fn uploaded(inputs: &mut Inputs, upload: &Upload) {
    let to = upload.to.as_str().trim_end_matches('/');
    for UploadEntry { path, kind } in &upload.entries {
        put(inputs, format!("{to}/{path}"), Digest::of(&json(kind)));
    }
}

fn variables(inputs: &mut Inputs, env: &Env) {
    for (name, value) in env {
        put(inputs, format!("${name}"), Digest::of(&json(value)));
    }
}

/// Inputs of one name count together.
fn put(inputs: &mut Inputs, name: String, digest: Digest) {
    inputs
        .entry(name.into())
        .and_modify(|old| {
            if *old != digest {
                *old = Digest::of(&[old.0, digest.0].concat());
            }
        })
        .or_insert(digest);
}

/// The names of inputs that differ: those of the new one first, then those that
/// are gone; variables last, for a step brings its own.
#[must_use]
pub fn changed_inputs(old: &Inputs, new: &Inputs) -> Vec<Printable> {
    let changed = new.iter().filter(|(name, digest)| old.get(*name) != Some(digest));
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let names = changed.map(|(name, _)| name.clone()).chain(gone.cloned());
    let (variables, mut others): (Vec<_>, Vec<_>) =
        names.partition(|name| name.as_str().starts_with('$'));
    others.extend(variables);
    others
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plan types have only string keys, so they encode")
}

/// The disks with every path of the host emptied.
fn disks_without_host_paths(plan: &Plan) -> Vec<crate::Disk> {
    let mut disks = plan.disks.clone();
    for base in disks.iter_mut().filter_map(|disk| disk.base.as_mut()) {
        base.path.clear();
    }
    disks
}

/// The stage without what is no input of it: every path of the host, and words.
fn without_host_paths(stage: &Stage) -> Stage {
    let mut stage = Stage { timeout_s: None, ..stage.clone() };
    for step in &mut stage.steps {
        let entries = step.uploads_mut().into_iter().flat_map(|upload| &mut upload.entries);
        for entry in entries {
            if let UploadKind::File { source: FileSource::Host { path, .. }, .. } = &mut entry.kind
            {
                path.clear();
            }
        }
        match step {
            Step::Fetch { to, .. } => to.clear(),
            Step::ExportTree { output, .. } => output.path.clear(),
            // Which element a script is of is for messages.
            Step::RunParts(parts) => parts.origins.clear(),
            _ => {}
        }
    }
    stage
}

#[cfg(test)]
mod tests;
