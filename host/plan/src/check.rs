//! Everything that can be wrong with a plan, found before any machine boots.

use std::collections::BTreeSet;

use crate::{
    DiskRole, DiskSize, Env, Plan, RunParts, Script, Step, Value, compare_scripts, is_script_name,
};

/// Something wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Complaint {
    /// Where: a stage, a disk, an output.
    pub place: String,
    /// What.
    pub problem: String,
}

fn complaint(place: impl Into<String>, problem: impl Into<String>) -> Complaint {
    Complaint { place: place.into(), problem: problem.into() }
}

/// All complaints about a plan; none means that it can be run.
#[must_use]
pub fn check(plan: &Plan) -> Vec<Complaint> {
    let mut complaints = check_disks(plan);
    complaints.extend(check_stages(plan));
    for output in &plan.outputs.images {
        if !plan.disks.iter().any(|d| d.name == output.disk && d.role == DiskRole::Target) {
            complaints.push(complaint(
                format!("output {}", output.path.display()),
                format!("there is no target disk `{}`", output.disk),
            ));
        }
    }
    complaints
}

fn check_disks(plan: &Plan) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let scratch = plan.disks.iter().filter(|disk| disk.role == DiskRole::Scratch).count();
    if scratch != 1 {
        complaints.push(complaint("disks", format!("{scratch} scratch disks instead of one")));
    }
    let mut names = BTreeSet::new();
    for disk in &plan.disks {
        let place = format!("disk {}", disk.name);
        if !names.insert(&disk.name) {
            complaints.push(complaint(&place, "a second disk of this name"));
        }
        if !matches!(disk.block_bytes, 512 | 4096) {
            complaints.push(complaint(&place, format!("block size {}", disk.block_bytes)));
        }
        if matches!(disk.size, DiskSize::Bytes(bytes) if bytes == 0 || bytes % 512 != 0) {
            complaints.push(complaint(&place, "the size must be a positive multiple of 512"));
        }
        if let (DiskSize::Bytes(bytes), Some(base)) = (&disk.size, &disk.base)
            && *bytes < base.bytes
        {
            let problem = format!("{bytes} bytes are less than the {} of its base", base.bytes);
            complaints.push(complaint(&place, problem));
        }
    }
    complaints
}

fn check_stages(plan: &Plan) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut names = BTreeSet::new();
    let mut facts: BTreeSet<String> = BTreeSet::new();
    let mut layout = crate::Layout::default();
    let disks: Vec<&str> = plan.disks.iter().map(|disk| disk.name.as_str()).collect();
    let mut known = disks.clone();
    for stage in &plan.stages {
        let place = format!("stage {}", stage.name);
        if !names.insert(&stage.name) {
            complaints.push(complaint(&place, "a second stage of this name"));
        }
        for step in &stage.steps {
            for fact in facts_used(step) {
                if !facts.contains(fact) && !is_layout_fact(fact) {
                    complaints.push(complaint(
                        format!("{place}, {}", step.title()),
                        format!("uses the fact `{fact}`, which no earlier step sets"),
                    ));
                }
            }
            match step {
                Step::CreateLayout(part) => layout.nodes.extend(part.nodes.iter().cloned()),
                Step::FindRoot { disk, .. }
                | Step::GrowRoot { disk }
                | Step::FindDevices { disk, .. }
                    if !disks.contains(&disk.as_str()) =>
                {
                    complaints.push(complaint(&place, format!("there is no disk `{disk}`")));
                }
                Step::RunParts(parts) => complaints.extend(check_scripts(&place, parts)),
                Step::FindDevices { devices, .. } => known.extend(
                    devices.iter().flat_map(|found| [found.name.as_str(), &found.filesystem]),
                ),
                _ => {}
            }
            facts.extend(facts_set(step));
        }
    }
    complaints.extend(
        layout.check(&known).iter().map(|error| complaint("disk layout", error.to_string())),
    );
    complaints
}

/// Scripts that appear one by one must do so in the order in which they run.
fn check_scripts(place: &str, parts: &RunParts) -> Option<Complaint> {
    let wrong = parts.scripts.iter().find(|script| !is_script_name(&script.name));
    if let Some(script) = wrong {
        return Some(complaint(place, format!("`{}` is no name of a script", script.name)));
    }
    let sorted = |pair: &[Script]| compare_scripts(&pair[0].name, &pair[1].name).is_lt();
    let pair = parts.scripts.windows(2).find(|pair| !sorted(pair))?;
    let problem = format!("the script `{}` does not run before `{}`", pair[0].name, pair[1].name);
    Some(complaint(place, problem))
}

/// Facts that making a layout sets, see [`Step::CreateLayout`].
fn is_layout_fact(fact: &str) -> bool {
    ["device.", "uuid.", "label.", "fstype."].iter().any(|prefix| fact.starts_with(prefix))
        || fact.starts_with("image-block-device")
}

fn facts_of_env(env: &Env) -> impl Iterator<Item = &String> {
    env.iter().filter_map(|(_, value)| fact_of(value))
}

fn fact_of(value: &Value) -> Option<&String> {
    match value {
        Value::Fact(fact) => Some(fact),
        Value::Text(_) => None,
    }
}

fn facts_used(step: &Step) -> Vec<&String> {
    match step {
        Step::Run(run) => {
            facts_of_env(&run.env).chain(run.argv.iter().filter_map(fact_of)).collect()
        }
        Step::RunParts(RunParts { env, .. }) => facts_of_env(env).collect(),
        Step::SetFact { value, .. } => fact_of(value).into_iter().collect(),
        _ => Vec::new(),
    }
}

fn facts_set(step: &Step) -> Vec<String> {
    match step {
        Step::Run(run) => run.capture.clone().into_iter().collect(),
        Step::SetFact { fact, .. } => vec![fact.clone()],
        Step::ImageSize(size) => vec![size.fact.clone()],
        Step::FindRoot { .. } => vec!["root-device".into()],
        _ => Vec::new(),
    }
}
