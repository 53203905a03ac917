//! Checks of a plan that find errors before any machine boots.

use std::collections::BTreeSet;

use crate::{DiskRole, DiskSize, Plan, RunParts, Script, compare_scripts, is_script_name};

/// An error in a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Complaint {
    /// The part of the plan with the error: a stage, a disk, an output or the disk layout.
    pub place: String,
    /// The message.
    pub problem: String,
}

fn complaint(place: impl Into<String>, problem: impl Into<String>) -> Complaint {
    Complaint { place: place.into(), problem: problem.into() }
}

/// Returns all errors in a plan; if there are none, it can be run.
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
            let facets = step.facets();
            for fact in facets.facts_used {
                if !facts.contains(fact) && !is_layout_fact(fact) {
                    complaints.push(complaint(
                        format!("{place}, {}", facets.title),
                        format!("uses the fact `{fact}`, which no earlier step sets"),
                    ));
                }
            }
            if let Some(disk) = facets.disk.filter(|disk| !disks.contains(disk)) {
                complaints.push(complaint(&place, format!("there is no disk `{disk}`")));
            }
            layout.nodes.extend(facets.layout.into_iter().flat_map(|part| part.nodes.clone()));
            complaints.extend(facets.phase.and_then(|parts| check_scripts(&place, parts)));
            known.extend(facets.found);
            facts.extend(facets.facts_set);
        }
    }
    complaints.extend(
        layout.check(&known).iter().map(|error| complaint("disk layout", error.to_string())),
    );
    complaints
}

/// Checks the scripts of a phase that appear one by one: they must have valid names and be listed
/// in the order in which they run.
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

/// Whether a fact is one that making a layout sets; see [`Step::CreateLayout`].
fn is_layout_fact(fact: &str) -> bool {
    ["device.", "uuid.", "label.", "fstype."].iter().any(|prefix| fact.starts_with(prefix))
        || fact.starts_with("image-block-device")
}
