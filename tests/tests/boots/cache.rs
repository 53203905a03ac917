//! Cached stage results: unchanged stages do not run, and the output equals that of an uncached
//! build.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use engine::{cache::Refresh, events::Event};
use plan::{Context, Plan, Stage};
use store::{RecordKind, StageRecord, Store};

use crate::{
    harness::{Ground, ground},
    plans::{self, sh},
    stages,
};

/// A test environment with its own store, and the shared appliance.
fn with_store(test: &str) -> Option<Ground> {
    let mut ground = ground(test)?;
    let own = ground.path("cache");
    std::fs::create_dir(&own).unwrap();
    let shared = std::fs::canonicalize(ground.settings.cache_dir.join("appliance")).unwrap();
    symlink(shared, own.join("appliance")).unwrap();
    ground.settings.cache_dir = own;
    ground.settings.stage_cache.enabled = true;
    ground.settings.seed = Some("test".into());
    Some(ground)
}

/// Builds, and returns the names of the stages that ran.
async fn build(ground: &Ground, plan: &Plan) -> Vec<String> {
    let before = ground.recorder.events().len();
    if let Err(error) = vbuild::build(plan, &ground.settings, &ground.ctx).await {
        panic!("{error:?}\n{}", ground.recorder.lines().join("\n"));
    }
    ran(ground, before)
}

fn ran(ground: &Ground, before: usize) -> Vec<String> {
    ground.recorder.events()[before..]
        .iter()
        .filter_map(|event| match event {
            Event::StageStarted { name, .. } => Some(name.clone()),
            _ => None,
        })
        .collect()
}

fn machines(ground: &Ground) -> usize {
    let events = ground.recorder.events();
    events.iter().filter(|event| matches!(event, Event::MachineStarting { .. })).count()
}

fn messages(ground: &Ground) -> String {
    let text = |event: &Event| match event {
        Event::Message { text } | Event::Warning { text } => Some(text.clone()),
        _ => None,
    };
    ground.recorder.events().iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

fn store(ground: &Ground) -> Store {
    Store::open(&vbuild::store_directory(&ground.settings.cache_dir)).unwrap()
}

/// Makes a stage slow enough for its result to be cached.
fn slow(stage: &mut Stage) {
    stage.steps.push(sh("work", "sleep 2.5"));
}

fn names(plan: &Plan, from: &str) -> Vec<String> {
    let names = plan.stages.iter().map(|stage| stage.name.clone());
    names.skip_while(|name| name != from).collect()
}

fn whole(tar: &Path, raw: &Path) -> Plan {
    let mut plan = plans::whole(tar, raw);
    for name in ["root.d", "copy"] {
        slow(plan.stages.iter_mut().find(|stage| stage.name == name).unwrap());
    }
    plan
}

fn same_trees(one: &Path, other: &Path) {
    let (one, other) = (stages::tree(one), stages::tree(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, entry) in &one {
        assert_eq!(entry, &other[name], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_runs_and_the_tree_is_that_of_an_uncached_build() {
    let test = "only_what_changed_runs_and_the_tree_is_that_of_an_uncached_build";
    let Some(mut ground) = with_store(test) else { return };
    let (tar, raw) = (ground.path("one.tar"), ground.path("image.raw"));
    let mut plan = whole(&tar, &raw);
    assert_eq!(build(&ground, &plan).await, names(&plan, "prepare"));
    let first = std::fs::read(&raw).unwrap();

    // Nothing has changed: no machine, the same bytes.
    let count = machines(&ground);
    std::fs::remove_file(&tar).unwrap();
    std::fs::remove_file(&raw).unwrap();
    assert_eq!(build(&ground, &plan).await, Vec::<String>::new());
    assert_eq!(machines(&ground), count);
    assert!(std::fs::read(&raw).unwrap() == first, "the image has other bytes");

    // A late step has changed: earlier ones do not run.
    let late = plan.stages.iter_mut().find(|stage| stage.name == "export").unwrap();
    late.steps.insert(0, sh("late", "echo late > /build/target/etc/late"));
    let (other, expected) = (ground.path("two.tar"), ground.path("three.tar"));
    rename_tar(&mut plan, &other);
    assert_eq!(build(&ground, &plan).await, ["export"]);
    assert!(
        messages(&ground).contains("export runs: changed: step `late`"),
        "{}",
        messages(&ground)
    );

    // A step in the middle has changed.
    let middle = plan.stages.iter_mut().find(|stage| stage.name == "inside").unwrap();
    middle.steps.push(sh("middle", "echo middle > /build/mnt/etc/middle"));
    assert_eq!(build(&ground, &plan).await, names(&plan, "inside"));

    ground.settings.stage_cache.enabled = false;
    rename_tar(&mut plan, &expected);
    build(&ground, &plan).await;
    same_trees(&other, &expected);
    assert!(stages::tree(&other).contains_key("etc/late"));
    assert!(stages::tree(&other).contains_key("etc/middle"));
}

fn rename_tar(plan: &mut Plan, tar: &Path) {
    for step in plan.stages.iter_mut().flat_map(|stage| &mut stage.steps) {
        if let plan::Step::ExportTree { output, .. } = step {
            output.path = tar.to_owned();
        }
    }
}

/// Stages that each append their name to a file, which the last one reads.
fn counting(scripts: &[(&str, &str)]) -> Plan {
    let stage = |(name, script): &(&str, &str)| {
        let append = format!("mkdir -p /build/x; echo {name} >> /build/x/log; {script}");
        let mut stage = plans::stage(name, Context::default(), vec![sh(name, &append)]);
        slow(&mut stage);
        stage
    };
    plans::plan(scripts.iter().map(stage).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_goes_on_where_it_failed() {
    let Some(ground) = with_store("a_failed_build_goes_on_where_it_failed") else { return };
    let check = "test \"$(cat /build/x/log)\" = \"$(printf 'one\\ntwo\\nthree')\"";
    let failing = counting(&[("one", ""), ("two", ""), ("three", "false")]);
    assert!(vbuild::build(&failing, &ground.settings, &ground.ctx).await.is_err());
    let mended = counting(&[("one", ""), ("two", ""), ("three", check)]);
    assert_eq!(build(&ground, &mended).await, ["three"]);

    // Refreshed stages run again, and all later ones too.
    let mut again = ground;
    again.settings.stage_cache.rules.refresh = Refresh::From("two".into());
    assert_eq!(build(&again, &mended).await, ["two", "three"]);
    again.settings.stage_cache.rules.refresh = Refresh::Everything;
    assert_eq!(build(&again, &mended).await, ["one", "two", "three"]);
    again.settings.stage_cache.rules.refresh = Refresh::From("four".into());
    let error = vbuild::build(&mended, &again.settings, &again.ctx).await.unwrap_err();
    assert!(error.source.to_string().contains("no stage `four`"), "{error:?}");
}

/// The objects of a store.
fn objects(store: &Store) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in std::fs::read_dir(store.root().join("objects")).unwrap().flatten() {
        found.extend(std::fs::read_dir(directory.path()).unwrap().flatten().map(|e| e.path()));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_store_is_a_miss_with_a_message() {
    let Some(ground) = with_store("damage_in_the_store_is_a_miss_with_a_message") else { return };
    let plan = counting(&[("one", ""), ("two", "")]);
    build(&ground, &plan).await;
    for object in objects(&store(&ground)) {
        let length = std::fs::metadata(&object).unwrap().len();
        std::fs::write(&object, vec![7; usize::try_from(length).unwrap()]).unwrap();
    }
    let mut longer = counting(&[("one", ""), ("two", ""), ("three", "")]);
    assert_eq!(build(&ground, &longer).await, ["one", "two", "three"]);
    assert!(messages(&ground).contains("a cached result is not used"), "{}", messages(&ground));

    // A store with a newer version is not used, and the build continues without one.
    let format = store(&ground).root().join("format");
    std::fs::write(&format, "vbuild store 99\n").unwrap();
    longer.name = "other".into();
    assert_eq!(build(&ground, &longer).await, ["one", "two", "three"]);
    assert!(messages(&ground).contains("building without a cache"), "{}", messages(&ground));
    assert_eq!(std::fs::read_to_string(&format).unwrap(), "vbuild store 99\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_over_the_network_ages() {
    let Some(mut ground) = with_store("what_came_over_the_network_ages") else { return };
    ground.settings.network = true;
    // The policy refuses it at once, but it counts as a use of the network.
    let connect = "timeout 20 bash -c 'exec 3<>/dev/tcp/10.0.0.1/80' || true";
    let plan = counting(&[("one", ""), ("net", connect), ("three", "")]);
    build(&ground, &plan).await;
    ground.settings.stage_cache.rules.max_age = Some(Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(build(&ground, &plan).await, ["net", "three"]);
    assert!(messages(&ground).contains("--max-age"), "{}", messages(&ground));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_builds_of_one_plan_may_race() {
    let Some(ground) = with_store("two_builds_of_one_plan_may_race") else { return };
    let plan = counting(&[("one", ""), ("two", "")]);
    let one = vbuild::build(&plan, &ground.settings, &ground.ctx);
    let two = vbuild::build(&plan, &ground.settings, &ground.ctx);
    let (one, two) = tokio::join!(one, two);
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    assert_eq!(build(&ground, &plan).await, Vec::<String>::new());
    assert_eq!(store(&ground).verify(false).unwrap().problems, []);
}

/// A phase whose scripts are uploaded one by one, except for one that is in the directory from the
/// beginning.
fn phase(scripts: &[(&str, &str)]) -> Plan {
    let upload = |name: &str, text: &str| plan::Upload {
        what: format!("the script {name}"),
        to: plans::path("/build/hooks"),
        entries: vec![plan::UploadEntry {
            path: name.into(),
            kind: plan::UploadKind::File {
                mode: 0o755,
                source: plan::FileSource::Text(format!(
                    "#!/bin/bash\nset -eu\n                     echo {name}, of $(echo $(ls /build/hooks)) >> /build/log\n{text}\n"
                )),
            },
        }],
    };
    let script = |(name, text): &(&str, &str)| plan::Script {
        name: (*name).into(),
        upload: upload(name, text),
    };
    let parts = plan::Step::RunParts(plan::RunParts {
        phase: "install.d".into(),
        place: plan::Place::Tools,
        directory: plans::path("/build/hooks"),
        environment: None,
        env: vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())],
        cwd: plans::path("/"),
        origins: std::collections::BTreeMap::new(),
        block_device_output: false,
        scripts: scripts.iter().map(script).collect(),
    });
    let found = plan::Step::Upload(upload("20-found", ""));
    plans::plan(vec![
        plans::stage("install.d", Context::default(), vec![found, parts]),
        plans::stage("last", Context::default(), vec![sh("look", "cat /build/log")]),
    ])
}

fn scripts(ground: &Ground) -> Vec<String> {
    let started = |event: &Event| match event {
        Event::ScriptStarted { script, .. } => Some(script.clone()),
        _ => None,
    };
    ground.recorder.events().iter().filter_map(started).collect()
}

/// The content read by the last stage.
fn log(ground: &Ground) -> Vec<String> {
    let events = ground.recorder.events();
    let begun = events.iter().rposition(
        |event| matches!(event, Event::ScriptStarted { script, .. } if script == "look"),
    );
    let line = |event: &Event| match event {
        Event::OutputLine { line, .. } => Some(line.clone()),
        _ => None,
    };
    events[begun.unwrap_or_default()..].iter().filter_map(line).collect()
}

/// Long enough for the disks to be saved after it.
const LONG: &str = "sleep 5";

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_phase_goes_on_between_its_scripts() {
    let test = "an_interrupted_phase_goes_on_between_its_scripts";
    let Some(ground) = with_store(test) else { return };
    let plan = phase(&[("10-one", LONG), ("30-two", "sleep 15"), ("40-three", "")]);
    let stop = async {
        while !scripts(&ground).contains(&"30-two".to_owned()) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        ground.stop.send(true).unwrap();
    };
    let (built, ()) = tokio::join!(vbuild::build(&plan, &ground.settings, &ground.ctx), stop);
    assert!(built.is_err(), "it was stopped");
    assert_eq!(scripts(&ground), ["10-one", "20-found", "30-two"]);

    ground.stop.send(false).unwrap();
    build(&ground, &plan).await;
    assert_eq!(scripts(&ground)[3..], ["20-found", "30-two", "40-three", "look"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_script_lets_those_before_it_stand() {
    let test = "a_changed_script_lets_those_before_it_stand";
    let Some(ground) = with_store(test) else { return };
    let failing = phase(&[("10-one", LONG), ("30-two", "exit 7"), ("40-three", "")]);
    assert!(vbuild::build(&failing, &ground.settings, &ground.ctx).await.is_err());
    let mended = phase(&[("10-one", LONG), ("30-two", ""), ("40-three", "")]);
    build(&ground, &mended).await;
    assert_eq!(scripts(&ground)[3..], ["20-found", "30-two", "40-three", "look"]);
    assert!(messages(&ground).contains("install.d goes on at 20-found"), "{}", messages(&ground));
    // No script has seen a later one, and nothing of the failed one is left.
    let expected = [
        "10-one, of 10-one 20-found",
        "20-found, of 10-one 20-found",
        "30-two, of 10-one 20-found 30-two",
        "40-three, of 10-one 20-found 30-two 40-three",
    ];
    assert_eq!(log(&ground), expected);

    // The stage's record lists all that ran in it.
    let records = store(&ground).records().unwrap();
    let whole = |record: &StageRecord| record.kind == RecordKind::Stage;
    let stage = records.iter().find(|(_, r)| whole(r) && r.name == "install.d").unwrap();
    let ran: Vec<&str> = stage.1.ran.iter().map(|ran| ran.name.as_str()).collect();
    let all = ["10-one", "20-found", "30-two", "40-three"].map(|name| format!("install.d/{name}"));
    assert_eq!(ran[ran.len() - 4..], all);

    // An earlier script changes, and a new one sorts before the saved point.
    let before = scripts(&ground).len();
    let more = phase(&[("05-new", ""), ("10-one", ""), ("30-two", ""), ("40-three", "")]);
    build(&ground, &more).await;
    let all = ["05-new", "10-one", "20-found", "30-two", "40-three", "look"];
    assert_eq!(scripts(&ground)[before..], all);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_changes_while_the_build_runs_is_told_and_not_kept() {
    let test = "an_input_that_changes_while_the_build_runs_is_told_and_not_kept";
    let Some(ground) = with_store(test) else { return };
    let file = ground.path("30-two");
    let script = |text: &str| format!("#!/bin/bash\necho {text} >> /build/log\n");
    // The plan as a front end creates it, with the digest of the file's content at that time.
    let plan = |text: &str| {
        std::fs::write(&file, script(text)).unwrap();
        let mut plan = phase(&[("10-one", LONG), ("30-two", ""), ("40-three", "")]);
        for step in plan.stages.iter_mut().flat_map(|stage| &mut stage.steps) {
            let plan::Step::RunParts(parts) = step else { continue };
            let source = plan::FileSource::Host {
                path: file.clone(),
                bytes: script(text).len() as u64,
                sha256: plan::Digest::of(script(text).as_bytes()),
            };
            let kind = plan::UploadKind::File { mode: 0o755, source };
            parts.scripts[1].upload.entries[0].kind = kind;
        }
        plan
    };
    let first = plan("as it was");
    let change = async {
        while !scripts(&ground).contains(&"10-one".to_owned()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::fs::write(&file, script("as it is")).unwrap();
    };
    let (built, ()) = tokio::join!(vbuild::build(&first, &ground.settings, &ground.ctx), change);
    let error = built.unwrap_err().source.to_string();
    assert!(error.contains("has changed while the build was running"), "{error}");
    assert_eq!(scripts(&ground), ["10-one", "20-found"]);
    // The earlier steps are still valid, and the next build uses the new file.
    build(&ground, &plan("as it is")).await;
    assert_eq!(scripts(&ground)[2..], ["20-found", "30-two", "40-three", "look"]);
    assert_eq!(log(&ground)[2], "as it is");
}
