//! Stage keys: a saved result can take the place of a run of a stage with the same key.
//!
//! A key covers the format version, the key of the parent, the [`Surroundings`], and the stage as
//! data. Host paths are not part of it: a file is identified by its path in the guest, its mode and
//! its digest. The content of the helper drive is not part of it either, nor is the shape of the
//! machine (processors, memory, backend): no result may depend on them.
//!
//! Keys and digests of inputs are HMACs under a [`Salt`], so that a reader of a record cannot find
//! a weak value in it (a password in a variable) by guessing. Stores with the same salt have the
//! same keys.
//!
//! Architecture invariant: an input that a step could have read is in its key, or was not visible
//! to it. What a stage uploads is visible to it and to all later stages, and is in the keys of all
//! of them; what a later stage uploads is in no key of an earlier one.

use std::{collections::BTreeMap, fmt};

use checked::Printable;
use ring::hmac;
use serde::{Deserialize, Serialize};

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

/// The secret with which keys are computed.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt([u8; 32]);

impl Salt {
    /// A salt that everybody has, for results that are shared without a secret.
    pub const PUBLIC: Self = Self(*b"vbuild: keys that have no secret");

    /// Creates a salt from its bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Derives 32 bytes for another purpose. The salt cannot be computed from them.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        self.hash(purpose, &[]).0
    }

    /// Returns the HMAC of the concatenated parts. `purpose` keeps digests of different things
    /// apart; it must not contain a zero byte.
    fn hash(&self, purpose: &str, parts: &[&[u8]]) -> Digest {
        let mut hash = self.hasher(purpose);
        for part in parts {
            hash.update(part);
        }
        finish(&hash)
    }

    fn hasher(&self, purpose: &str) -> hmac::Context {
        let mut hash = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        hash.update(purpose.as_bytes());
        hash.update(&[0]);
        hash
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

fn finish(hash: &hmac::Context) -> Digest {
    let tag = hash.clone().sign();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(tag.as_ref());
    Digest(bytes)
}

/// What steps can see besides the plan, and the salt of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The secret with which keys are computed.
    pub salt: Salt,
    /// The digest of the appliance in which the steps run.
    pub appliance: Digest,
    /// Whether there is a network. Its policy is not visible to steps: a refused connection makes a
    /// step fail, and failures are not saved.
    pub network: bool,
    /// The digest of the certificates of `--ca-bundle`.
    pub certificates: Option<Digest>,
    /// The seed of identifiers; without one they are random.
    pub seed: Option<String>,
}

impl Surroundings {
    fn inputs(&self) -> [(&'static str, Digest); 4] {
        [
            ("the appliance", self.input(&self.appliance)),
            ("whether there is a network", self.input(&self.network)),
            ("--ca-bundle", self.input(&self.certificates)),
            ("SOURCE_DATE_EPOCH", self.input(&self.seed)),
        ]
    }

    /// Returns the digest of an input.
    fn input<T: Serialize>(&self, value: &T) -> Digest {
        self.salt.hash("input", &[&json(value)])
    }
}

/// The names and digests of inputs, to find out which of them has changed.
pub type Inputs = BTreeMap<Printable, Digest>;

impl StageKey {
    /// Returns the keys of all stages of a plan, in order.
    ///
    /// Image files of disks are not part of a key: a build need not run again to write another
    /// format.
    #[must_use]
    pub fn of_plan(plan: &Plan, surroundings: &Surroundings) -> Vec<Self> {
        let mut parent = start(plan, surroundings);
        plan.stages
            .iter()
            .map(|stage| {
                let stage = json(&without_host_paths(stage));
                parent = surroundings.salt.hash("stage", &[&parent.0, &stage]);
                Self(parent)
            })
            .collect()
    }

    /// Returns the key of the files that a plan leaves on the host, whatever their paths are.
    #[must_use]
    pub fn of_outputs(plan: &Plan, surroundings: &Surroundings) -> Self {
        let last = Self::of_plan(plan, surroundings).pop();
        let mut images = plan.outputs.images.clone();
        for image in &mut images {
            image.path.clear();
        }
        let last = last.map_or_else(|| start(plan, surroundings), |last| last.0);
        let parts = [last.0.as_slice(), &json(&images), &json(&plan.outputs.checksums)];
        Self(surroundings.salt.hash("outputs", &parts))
    }

    /// Returns the keys of all points within a stage, in order. `before` is the key of the stage
    /// before it.
    ///
    /// The key of a point covers the stage's steps up to its phase, and those of the phase's
    /// scripts that are in place at the point. Later scripts and steps were not visible to anything
    /// that has run by then, so they are not part of the key.
    #[must_use]
    pub fn points(
        plan: &Plan,
        surroundings: &Surroundings,
        index: usize,
        before: Option<Self>,
    ) -> Vec<(Point, Self)> {
        let stage = without_host_paths(&plan.stages[index]);
        let mut hash = surroundings.salt.hasher("within");
        hash.update(&before.map_or_else(|| start(plan, surroundings), |before| before.0).0);
        let frame = Stage { steps: Vec::new(), ..stage.clone() };
        hash.update(&json(&frame));
        let mut points = Vec::new();
        for (step, content) in stage.steps.iter().enumerate() {
            let Step::RunParts(parts) = content else {
                hash.update(&json(content));
                continue;
            };
            hash.update(&json(&Step::RunParts(without_scripts(parts))));
            for scripts in 0..=parts.scripts.len() {
                if let Some(last) = scripts.checked_sub(1) {
                    hash.update(&json(&parts.scripts[last]));
                }
                points.push((Point { step, scripts }, Self(finish(&hash))));
            }
        }
        points
    }
}

/// A point within a stage, between two scripts of one of its phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The index of the step that runs the phase.
    pub step: usize,
    /// The number of [`RunParts::scripts`] that are in place.
    pub scripts: usize,
}

/// Returns the phase without the scripts that appear one by one.
fn without_scripts(parts: &RunParts) -> RunParts {
    RunParts { scripts: Vec::new(), ..parts.clone() }
}

/// Returns the digest that stands for the parent's key in the key of the first stage.
fn start(plan: &Plan, surroundings: &Surroundings) -> Digest {
    let mut hash = surroundings.salt.hasher("start");
    hash.update(&FORMAT_VERSION.to_le_bytes());
    for (_, digest) in surroundings.inputs() {
        hash.update(&digest.0);
    }
    hash.update(&json(&disks_without_host_paths(plan)));
    hash.update(&json(&plan.helper_at));
    finish(&hash)
}

/// Returns the inputs of one stage by name, to explain a key that has changed although the parent's
/// key has not. The stage's name, its `keep` and the order of its steps are part of the key, but
/// are not among the inputs.
#[must_use]
pub fn stage_inputs(plan: &Plan, stage: &Stage, surroundings: &Surroundings) -> Inputs {
    let mut inputs = Inputs::new();
    for (name, digest) in surroundings.inputs() {
        inputs.insert(name.into(), digest);
    }
    let disks = (disks_without_host_paths(plan), &plan.helper_at);
    inputs.insert("the disks".into(), surroundings.input(&disks));
    let mounts = (&stage.context, stage.network);
    inputs.insert("the stage's mounts".into(), surroundings.input(&mounts));
    for step in &without_host_paths(stage).steps {
        let title = match step {
            Step::Upload(upload) => format!("upload {}", upload.what),
            Step::Fetch { from, .. } => format!("fetch {from}"),
            Step::ExportTree { output, .. } => format!("write {}", output.format),
            step => step.title(),
        };
        let rest = match step {
            Step::Upload(upload) => {
                uploaded(&mut inputs, upload, surroundings);
                surroundings.input(&upload.to)
            }
            Step::Run(run) => {
                variables(&mut inputs, &run.env, surroundings);
                surroundings.input(&Run { env: Env::new(), ..run.clone() })
            }
            Step::RunParts(parts) => {
                variables(&mut inputs, &parts.env, surroundings);
                for script in &parts.scripts {
                    uploaded(&mut inputs, &script.upload, surroundings);
                }
                surroundings.input(&RunParts { env: Env::new(), ..without_scripts(parts) })
            }
            step => surroundings.input(step),
        };
        put(&mut inputs, format!("step `{title}`"), rest);
    }
    inputs
}

fn uploaded(inputs: &mut Inputs, upload: &Upload, surroundings: &Surroundings) {
    let to = upload.to.as_str().trim_end_matches('/');
    for UploadEntry { path, kind } in &upload.entries {
        put(inputs, format!("{to}/{path}"), surroundings.input(kind));
    }
}

fn variables(inputs: &mut Inputs, env: &Env, surroundings: &Surroundings) {
    for (name, value) in env {
        put(inputs, format!("${name}"), surroundings.input(value));
    }
}

/// Adds an input. Different inputs of the same name get one common digest.
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

/// Returns the names of inputs that differ: first those that are new or have changed, then those
/// that have gone. Variables are last, since a step that is new adds its own.
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

/// Returns the disks with all host paths emptied.
fn disks_without_host_paths(plan: &Plan) -> Vec<crate::Disk> {
    let mut disks = plan.disks.clone();
    for base in disks.iter_mut().filter_map(|disk| disk.base.as_mut()) {
        base.path.clear();
    }
    disks
}

/// Returns the stage without what is not an input: host paths, the timeout, and the origins of
/// scripts.
fn without_host_paths(stage: &Stage) -> Stage {
    let mut stage = Stage { timeout_s: None, ..stage.clone() };
    for step in &mut stage.steps {
        match step {
            Step::Upload(upload) => clear_host_paths(upload),
            Step::Fetch { to, .. } => to.clear(),
            Step::ExportTree { output, .. } => output.path.clear(),
            Step::RunParts(parts) => {
                // Origins are only for messages.
                parts.origins.clear();
                parts.scripts.iter_mut().for_each(|script| clear_host_paths(&mut script.upload));
            }
            // These have no host paths.
            Step::Run(_)
            | Step::File(_)
            | Step::ResolvConf(_)
            | Step::RequireContent { .. }
            | Step::SetFact { .. }
            | Step::ImageSize(_)
            | Step::CreateLayout(_)
            | Step::FindRoot { .. }
            | Step::FindDevices { .. }
            | Step::GrowRoot { .. }
            | Step::ForgetLayout
            | Step::WriteFstab { .. }
            | Step::CopyTree { .. }
            | Step::KillProcesses { .. }
            | Step::Trim
            | Step::ClampTimes { .. }
            | Step::Canonicalise { .. }
            | Step::Say { .. } => {}
        }
    }
    stage
}

fn clear_host_paths(upload: &mut Upload) {
    for entry in &mut upload.entries {
        if let UploadKind::File { source: FileSource::Host { path, .. }, .. } = &mut entry.kind {
            path.clear();
        }
    }
}

#[cfg(test)]
mod tests;
