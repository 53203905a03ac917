//! Stage keys: what makes two runs of a stage the same.
//!
//! A key covers the format version, the parent's key, what the stage can see of
//! its [`Surroundings`], and the stage as data. Paths of the host are no part of
//! it: a file counts by its place in the guest, its mode and its digest. The
//! helper drive is no part of it either, nor is the machine's shape (processors,
//! memory, who runs it): no result may depend on them.
//!
//! Keys and digests of inputs are HMACs under a [`Salt`], so that a reader of a record
//! cannot find a weak value in it (a password in a variable) by trying words. Stores with
//! the same salt have the same keys.
//!
//! Architecture invariant: an input that a step could have read is in its key,
//! or was not visible to it. What a stage uploads is visible to it and to every
//! later stage, and is in all their keys; what a later stage uploads is in none
//! of the earlier ones.

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

/// The secret under which keys are made.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt([u8; 32]);

impl Salt {
    /// A salt that everybody knows: for results that are shared without a secret.
    pub const PUBLIC: Self = Self(*b"vbuild: keys that have no secret");

    /// A salt of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Bytes for another purpose, from which the salt cannot be found.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        self.hash(purpose, &[]).0
    }

    /// The digest of parts under the salt. What `purpose` says keeps digests of
    /// different things apart; it has no zero byte.
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

/// What steps can see beside the plan, and the salt of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The secret under which keys are made.
    pub salt: Salt,
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
            ("the appliance", self.input(&self.appliance)),
            ("whether there is a network", self.input(&self.network)),
            ("--ca-bundle", self.input(&self.certificates)),
            ("SOURCE_DATE_EPOCH", self.input(&self.seed)),
        ]
    }

    /// The digest of an input.
    fn input<T: Serialize>(&self, value: &T) -> Digest {
        self.salt.hash("input", &[&json(value)])
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
                let stage = json(&without_host_paths(stage));
                parent = surroundings.salt.hash("stage", &[&parent.0, &stage]);
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
        let last = last.map_or_else(|| start(plan, surroundings), |last| last.0);
        let parts = [last.0.as_slice(), &json(&images), &json(&plan.outputs.checksums)];
        Self(surroundings.salt.hash("outputs", &parts))
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
    let mut hash = surroundings.salt.hasher("start");
    hash.update(&FORMAT_VERSION.to_le_bytes());
    for (_, digest) in surroundings.inputs() {
        hash.update(&digest.0);
    }
    hash.update(&json(&disks_without_host_paths(plan)));
    hash.update(&json(&plan.helper_at));
    finish(&hash)
}

/// The inputs of one stage by name. Whatever changes its key without its parent's
/// changes one of these.
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
        match step {
            Step::Upload(upload) => clear_host_paths(upload),
            Step::Fetch { to, .. } => to.clear(),
            Step::ExportTree { output, .. } => output.path.clear(),
            Step::RunParts(parts) => {
                // Which element a script is of is for messages.
                parts.origins.clear();
                parts.scripts.iter_mut().for_each(|script| clear_host_paths(&mut script.upload));
            }
            // Nothing of these is a path of the host.
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
