//! Tests of what is part of a stage key, and what is not.

use super::*;
use crate::{Context, Disk, DiskRole, DiskSize, GuestPath, ImageOutput, Outputs, Place, Upload};

fn surroundings() -> Surroundings {
    Surroundings {
        salt: Salt::new([7; 32]),
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
        architecture: crate::Architecture::Amd64,
        disks: vec![Disk {
            name: crate::DiskName::scratch(),
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
fn differs(other: &Plan, around: &Surroundings) -> (Option<usize>, Vec<Printable>) {
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
            disk: crate::DiskName::new("image0").unwrap(),
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

fn script(name: &str, content: &str) -> crate::Script {
    let Step::Upload(upload) = upload(name, "/h/x", content, 0o755) else { unreachable!() };
    crate::Script { name: name.into(), upload }
}

fn phase(scripts: Vec<crate::Script>) -> Step {
    Step::RunParts(RunParts {
        phase: "install.d".into(),
        place: Place::Tools,
        directory: path("/hooks"),
        environment: None,
        env: Env::new(),
        cwd: path("/"),
        origins: scripts.iter().map(|s| (s.name.clone(), "element".into())).collect(),
        block_device_output: false,
        scripts,
    })
}

/// How many points of a phase in the middle stage are shared with the usual one, and
/// what the inputs of its stage say.
fn shared_points(
    scripts: Vec<crate::Script>,
    before: &str,
    behind: &str,
) -> (usize, Vec<Printable>) {
    let usual = vec![script("10-a", "a"), script("20-b", "b"), script("30-c", "c")];
    let of = |scripts, before: &str, behind: &str| {
        let stage = vec![upload("lib", "/h/lib", before, 0o644), phase(scripts), run(behind)];
        let plan = plan([vec![run("1")], stage, vec![run("2")]]);
        let keys = StageKey::of_plan(&plan, &surroundings());
        let points = StageKey::points(&plan, &surroundings(), 1, Some(keys[0]));
        (points, stage_inputs(&plan, &plan.stages[1], &surroundings()))
    };
    let (one, old) = of(usual, "lib", "behind");
    let (other, new) = of(scripts, before, behind);
    let places: Vec<_> = one.iter().map(|(point, _)| (point.step, point.scripts)).collect();
    assert_eq!(places, [(1, 0), (1, 1), (1, 2), (1, 3)]);
    let shared = one.iter().zip(&other).filter(|(a, b)| a.1 == b.1).count();
    (shared, changed_inputs(&old, &new))
}

#[test]
fn a_script_is_an_input_of_what_follows_it() {
    let scripts = |last: &str| vec![script("10-a", "a"), script("20-b", "b"), script("30-c", last)];
    assert_eq!(shared_points(scripts("c"), "lib", "behind"), (4, Vec::new()));
    let last = shared_points(scripts("other"), "lib", "behind");
    assert_eq!(last, (3, vec!["/hooks/30-c".into()]));
    // A script in between, and one less.
    let more = [&scripts("c")[..1], &[script("15-x", "x")], &scripts("c")[1..]].concat();
    assert_eq!(shared_points(more, "lib", "behind"), (2, vec!["/hooks/15-x".into()]));
    let fewer = shared_points(scripts("c")[..2].to_vec(), "lib", "behind");
    assert_eq!(fewer, (3, vec!["/hooks/30-c".into()]));
    // What all of them could read, and what comes behind them.
    assert_eq!(shared_points(scripts("c"), "other", "behind"), (0, vec!["/hooks/lib".into()]));
    assert_eq!(shared_points(scripts("c"), "lib", "other"), (4, vec!["$A".into()]));
}

#[test]
fn points_of_two_stages_or_two_parents_differ() {
    let stages = [vec![phase(Vec::new())], vec![phase(Vec::new())], Vec::new()];
    let plan = plan(stages);
    let keys = StageKey::of_plan(&plan, &surroundings());
    let key = |index, before| StageKey::points(&plan, &surroundings(), index, before)[0].1;
    let all = [key(0, None), key(1, Some(keys[0])), key(1, None), keys[0], keys[1]];
    assert_eq!(all.into_iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
}

/// The keys, points and digests of inputs that a build has under a salt.
fn everything(salt: Salt) -> std::collections::BTreeSet<Digest> {
    let around = Surroundings { salt, ..surroundings() };
    let mut steps = usual();
    steps[1].push(phase(vec![script("10-a", "a")]));
    let plan = plan(steps);
    let keys = StageKey::of_plan(&plan, &around);
    let points = StageKey::points(&plan, &around, 1, Some(keys[0])).into_iter().map(|(_, key)| key);
    let inputs =
        plan.stages.iter().flat_map(|stage| stage_inputs(&plan, stage, &around).into_values());
    let keys = keys.iter().copied().chain(points).chain([StageKey::of_outputs(&plan, &around)]);
    keys.map(|key| key.0).chain(inputs).collect()
}

#[test]
fn who_has_another_salt_has_other_keys_and_cannot_try_words() {
    let mine = everything(Salt::new([7; 32]));
    assert_eq!(mine, everything(Salt::new([7; 32])));
    assert!(mine.is_disjoint(&everything(Salt::new([8; 32]))));
    assert!(mine.is_disjoint(&everything(Salt::PUBLIC)));
    // The digest that a variable's value had in a record: words could be tried.
    let plain = Digest::of(&json(&crate::Value::from("1")));
    assert!(!mine.contains(&plain));
    assert_eq!(format!("{:?}", Salt::new([7; 32])), "Salt(..)");
}
