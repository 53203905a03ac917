//! What is in a key, and what is not.

use super::*;
use crate::{Context, Disk, DiskRole, DiskSize, GuestPath, ImageOutput, Outputs, Place, Upload};

fn surroundings() -> Surroundings {
    Surroundings {
        appliance: Digest::of(b"appliance"),
        network: true,
        certificates: None,
        seed: None,
    }
}

fn path(text: &str) -> GuestPath {
    GuestPath::new(text).unwrap()
}

fn upload(name: &str, host: &str, content: &str, mode: u32) -> Step {
    let source = FileSource::Host {
        path: host.into(),
        bytes: content.len() as u64,
        sha256: Digest::of(content.as_bytes()),
    };
    let entry = UploadEntry { path: name.into(), kind: UploadKind::File { mode, source } };
    Step::Upload(Upload { what: "hooks".into(), to: path("/hooks"), entries: vec![entry] })
}

fn run(value: &str) -> Step {
    Step::Run(Run {
        what: "run".into(),
        place: Place::Tools,
        argv: vec!["true".into()],
        env: vec![("A".into(), value.into())],
        environment: None,
        cwd: path("/"),
        stdin: None,
        capture: None,
    })
}

fn plan(steps: [Vec<Step>; 3]) -> Plan {
    let stage = |(n, steps)| Stage {
        name: format!("{n}"),
        context: Context::default(),
        steps,
        network: false,
        keep: crate::Keep::Shared,
        timeout_s: None,
    };
    Plan {
        format_version: FORMAT_VERSION,
        name: "test".into(),
        recipe: "test".into(),
        disks: vec![Disk {
            name: "scratch".into(),
            role: DiskRole::Scratch,
            size: DiskSize::Bytes(1 << 30),
            block_bytes: 512,
            base: None,
        }],
        stages: steps.into_iter().enumerate().map(stage).collect(),
        outputs: Outputs::default(),
        helper_at: path("/helper"),
    }
}

fn usual() -> [Vec<Step>; 3] {
    [vec![run("1")], vec![upload("b", "/h/b", "b", 0o755)], vec![upload("c", "/h/c", "c", 0o755)]]
}

/// From which stage on keys differ, and what the inputs of that stage say.
fn differs(other: &Plan, around: &Surroundings) -> (Option<usize>, Vec<String>) {
    let one = plan(usual());
    let keys = StageKey::of_plan(&one, &surroundings());
    let others = StageKey::of_plan(other, around);
    let first = keys.iter().zip(&others).position(|(a, b)| a != b);
    if let Some(first) = first {
        assert!(keys.iter().zip(&others).skip(first).all(|(a, b)| a != b), "later ones follow");
    }
    let index = first.unwrap_or(0);
    let old = stage_inputs(&one, &one.stages[index], &surroundings());
    (first, changed_inputs(&old, &stage_inputs(other, &other.stages[index], around)))
}

#[test]
fn an_input_is_in_the_keys_of_the_stages_that_could_read_it() {
    let mut steps = usual();
    steps[2] = vec![upload("c", "/h/c", "other", 0o755)];
    assert_eq!(differs(&plan(steps), &surroundings()), (Some(2), vec!["/hooks/c".into()]));
    let mut steps = usual();
    steps[1] = vec![upload("b", "/h/b", "b", 0o644)];
    assert_eq!(differs(&plan(steps), &surroundings()), (Some(1), vec!["/hooks/b".into()]));
    let mut steps = usual();
    steps[0] = vec![run("2")];
    assert_eq!(differs(&plan(steps), &surroundings()), (Some(0), vec!["$A".into()]));
}

#[test]
fn places_on_the_host_are_no_input() {
    let mut steps = usual();
    steps[1] = vec![upload("b", "/elsewhere/b", "b", 0o755)];
    assert_eq!(differs(&plan(steps), &surroundings()), (None, Vec::new()));
}

#[test]
fn surroundings_are_inputs_of_every_stage() {
    let others = [
        (Surroundings { appliance: Digest::of(b"other"), ..surroundings() }, "the appliance"),
        (Surroundings { network: false, ..surroundings() }, "whether there is a network"),
        (Surroundings { certificates: Some(Digest::of(b"ca")), ..surroundings() }, "--ca-bundle"),
        (Surroundings { seed: Some("1".into()), ..surroundings() }, "SOURCE_DATE_EPOCH"),
    ];
    for (other, name) in others {
        assert_eq!(differs(&plan(usual()), &other), (Some(0), vec![name.into()]));
    }
}

#[test]
fn the_key_of_outputs_follows_formats_and_not_names() {
    let with = |format: &str, path: &str| {
        let mut plan = plan(usual());
        plan.outputs.images = vec![ImageOutput {
            disk: "image0".into(),
            format: format.into(),
            path: path.into(),
            compress: false,
            options: None,
        }];
        StageKey::of_outputs(&plan, &surroundings())
    };
    assert_eq!(with("raw", "a"), with("raw", "b"));
    assert_ne!(with("raw", "a"), with("qcow2", "a"));
}
