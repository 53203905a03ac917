//! Tests which results are taken from a store, and the reasons why other stages run.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use plan::{Context, Digest, FileStep, GuestPath, Outputs, Stage, Surroundings, TreeOutput};
use store::{DiskState, ExtentSource, KeyId, Origin, RECORD_VERSION, Store};

use super::*;
use crate::cache::{
    connections::{Connections, Ledger},
    policy::{CONNECTIONS_MAX_BYTES, Rules, Trust},
};

const NOW: u64 = 2_000_000_000;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn cache(dir: &tempfile::TempDir) -> Cache {
    let store = Store::open(dir.path()).unwrap();
    Cache {
        lease: Arc::new(store.lease().unwrap()),
        rules: Rules { max_age: Some(Duration::from_secs(3600)), ..Rules::default() },
        surroundings: Surroundings {
            salt: plan::Salt::new(store.salt()),
            appliance: Digest::of(b"appliance"),
            network: true,
            certificates: None,
            seed: None,
        },
        connections: Connections::default(),
    }
}

fn write(content: &str) -> Step {
    let path = GuestPath::new("/f").unwrap();
    Step::File(FileStep::Write { path, content: content.into(), mode: 0o644 })
}

/// Stages that write their words; one whose word is `export` writes to the host.
fn plan(words: &[&str]) -> Plan {
    let output = TreeOutput { format: "tar".into(), path: "x.tar".into(), target: None };
    let root = GuestPath::new("/").unwrap();
    let export = Step::ExportTree { root, exclude: Vec::new(), output };
    let stage = |(index, word): (usize, &&str)| Stage {
        name: format!("s{index}"),
        context: Context::default(),
        steps: vec![if *word == "export" { export.clone() } else { write(word) }],
        network: false,
        keep: plan::Keep::Shared,
        timeout_s: None,
    };
    Plan {
        format_version: plan::FORMAT_VERSION,
        name: "test".into(),
        recipe: "test".into(),
        architecture: plan::Architecture::Amd64,
        disks: Vec::new(),
        stages: words.iter().enumerate().map(stage).collect(),
        outputs: Outputs::default(),
        helper_at: GuestPath::new("/helper").unwrap(),
    }
}

/// A disk of which nothing is written.
struct Empty;

impl ExtentSource for Empty {
    fn disk_bytes(&self) -> u64 {
        4096
    }

    fn next_extent(&mut self) -> std::io::Result<Option<store::Extent>> {
        Ok(None)
    }
}

/// Records of stages: which of them are kept, and when the network was used.
fn put(cache: &Cache, plan: &Plan, kept: &[bool], fetched: &[Option<u64>]) {
    let keys = StageKey::of_plan(plan, &cache.surroundings);
    for (index, stage) in plan.stages.iter().enumerate().take(kept.len()) {
        let layer = cache.lease.put_layer(&mut Empty).unwrap().digest;
        let disk = DiskState { bytes: 4096, layers: vec![layer] };
        let inputs = stage_inputs(plan, stage, &cache.surroundings);
        let record = StageRecord {
            version: RECORD_VERSION,
            key: keys[index].0,
            parent: None,
            build: plan.name.as_str().into(),
            kind: RecordKind::Stage,
            name: name_of(stage),
            created: NOW,
            elapsed_ms: 0,
            disks: if kept[index] {
                BTreeMap::from([(plan::DiskName::new("d").unwrap(), disk)])
            } else {
                BTreeMap::new()
            },
            state: serde_json::Value::Null,
            inputs,
            fetched: fetched[index],
            connections: Vec::new(),
            more_connections: 0,
            ran: Vec::new(),
            log: None,
            files: Vec::new(),
            origin: None,
        };
        cache.lease.put_record(&record).unwrap();
    }
}

fn told(plan: &Plan, cache: &Cache) -> Vec<String> {
    let forecast = forecast(plan, cache, now()).unwrap();
    let words = |why: &Option<Why>| why.as_ref().map_or("hit".to_owned(), ToString::to_string);
    forecast.reasons.iter().map(words).collect()
}

#[test]
fn builds_go_on_from_the_last_kept_stage() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    let old = plan(&["a", "b", "c", "d"]);
    assert_eq!(told(&old, &cache)[..2], ["it was not built before", "it follows s0"]);
    put(&cache, &old, &[true, true, false, true], &[None; 4]);
    assert_eq!(told(&old, &cache), ["hit"; 4]);
    let late = told(&plan(&["a", "b", "c", "x"]), &cache);
    assert_eq!(late, ["hit", "hit", "its result was not kept", "changed: step `change files`"]);
    let early = told(&plan(&["x", "b", "c", "d"]), &cache);
    assert_eq!(early[0], "changed: step `change files`");
    assert_eq!(early[1..], ["it follows s0", "it follows s1", "it follows s2"]);
}

#[test]
fn what_came_over_the_network_is_used_while_it_is_young() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = cache(&dir);
    let plan = plan(&["a", "b", "c"]);
    let old = Some(NOW - 7200);
    put(&cache, &plan, &[true; 3], &[None, old, old]);
    let words = told(&plan, &cache);
    assert_eq!(words[0], "hit");
    assert!(words[1].contains("2 h old") && words[2].contains("2 h old"), "{words:?}");
    assert!(forecast(&plan, &cache, now()).unwrap().outdated());
    cache.rules.max_age = None;
    assert_eq!(told(&plan, &cache), ["hit"; 3]);
    // The clock was set back after the build.
    cache.rules.max_age = Some(Duration::from_secs(3600));
    put(&cache, &plan, &[true; 3], &[None, None, Some(NOW + 60)]);
    let words = told(&plan, &cache);
    assert_eq!(words[..2], ["hit"; 2]);
    assert!(words[2].contains("clock"), "{words:?}");
}

#[test]
fn what_the_user_wants_anew_runs_and_outputs_are_never_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = cache(&dir);
    let plan = plan(&["a", "b", "export", "c"]);
    put(&cache, &plan, &[true; 4], &[None; 4]);
    assert_eq!(told(&plan, &cache), ["hit", "hit", "it writes to the host", "it follows s2"]);
    cache.rules.refresh = Refresh::From("s1".into());
    assert_eq!(told(&plan, &cache)[..2], ["hit", "--refresh"]);
    cache.rules.refresh = Refresh::Everything;
    assert_eq!(told(&plan, &cache)[0], "--refresh");
}

#[test]
fn a_result_that_lost_its_layers_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    let plan = plan(&["a", "b"]);
    put(&cache, &plan, &[true; 2], &[None; 2]);
    std::fs::remove_dir_all(dir.path().join("objects")).unwrap();
    assert_eq!(told(&plan, &cache), ["its result was not kept", "it follows s0"]);
}

fn script(name: &str, content: &str) -> plan::Script {
    let source = plan::FileSource::Text(content.into());
    let kind = plan::UploadKind::File { mode: 0o755, source };
    let entries = vec![plan::UploadEntry { path: name.into(), kind }];
    let to = GuestPath::new("/hooks").unwrap();
    plan::Script { name: name.into(), upload: plan::Upload { what: name.into(), to, entries } }
}

/// One stage, a phase of these scripts.
fn phase(scripts: &[(&str, &str)]) -> Plan {
    let mut plan = plan(&["x", "y"]);
    let path = |text: &str| GuestPath::new(text).unwrap();
    plan.stages[1].steps = vec![Step::RunParts(RunParts {
        phase: "install.d".into(),
        place: plan::Place::Tools,
        directory: path("/hooks"),
        environment: None,
        env: Vec::new(),
        cwd: path("/"),
        origins: BTreeMap::new(),
        block_device_output: false,
        scripts: scripts.iter().map(|(name, content)| script(name, content)).collect(),
    })];
    plan
}

#[test]
fn a_phase_goes_on_at_the_first_script_that_differs() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    let old = phase(&[("10-a", "a"), ("20-b", "b"), ("30-c", "c")]);
    // The stage before it took too little time for its disks to be kept.
    put(&cache, &old, &[false, true], &[None, None]);
    // Points behind 10-a and behind 25-found, which stood in the directory.
    let keys = StageKey::of_plan(&old, &cache.surroundings);
    let points = StageKey::points(&old, &cache.surroundings, 1, Some(keys[0]));
    for (scripts, last) in [(1, "10-a"), (2, "25-found")] {
        let progress = serde_json::json!({
            "step": 0, "scripts": { "found": ["25-found"], "last": last }, "env": ""
        });
        let state = serde_json::json!({
            "state": serde_json::to_value(crate::State::default()).unwrap(), "progress": progress
        });
        let mut record = cache.lease.lookup(&keys[1].0).unwrap().unwrap();
        record.key = points[scripts].1.0;
        record.kind = RecordKind::Point;
        record.state = state;
        cache.lease.put_record(&record).unwrap();
    }
    let goes_on = |scripts: &[(&str, &str)]| {
        let forecast = forecast(&phase(scripts), &cache, now()).unwrap();
        (forecast.first(), forecast.point.map(|point| point.script))
    };
    assert_eq!(goes_on(&[("10-a", "a"), ("20-b", "b"), ("30-c", "c")]), (2, None));
    let changed = goes_on(&[("10-a", "a"), ("20-b", "b"), ("30-c", "x")]);
    assert_eq!(changed, (1, Some("30-c".into())));
    let changed = goes_on(&[("10-a", "a"), ("20-b", "x"), ("30-c", "c")]);
    assert_eq!(changed, (1, Some("20-b".into())));
    // It would have run before 25-found, so that the later point is none of it.
    let more = goes_on(&[("10-a", "a"), ("20-b", "b"), ("22-x", "x"), ("30-c", "c")]);
    assert_eq!(more, (1, Some("20-b".into())));
    assert_eq!(goes_on(&[("10-a", "x"), ("20-b", "b"), ("30-c", "c")]), (0, None));
}

#[test]
fn a_stage_keeps_connections_within_a_budget() {
    let connections = Connections::default();
    let fetched = store::Fetched {
        path: format!("/{}", "a".repeat(1000)).as_str().into(),
        status: Some(200),
        bytes: 1,
        sha256: None,
    };
    let connection = |number: usize| store::Connection {
        host: format!("{number}.example").as_str().into(),
        port: 80,
        sent: 1,
        received: 1,
        fetched: vec![fetched.clone(); 400],
        more_fetched: 0,
    };
    (0..100).for_each(|number| connections.push(connection(number)));
    let mut ledger = connections.take();
    let bytes = |ledger: &Ledger| -> usize {
        ledger.connections.iter().map(store::Connection::cost_bytes).sum()
    };
    assert!(bytes(&ledger) <= CONNECTIONS_MAX_BYTES && ledger.more > 0);
    assert_eq!(ledger.connections.len() as u64 + ledger.more, 100);
    // What a stage goes on with counts for the same budget.
    (0..100).for_each(|number| connections.push(connection(number)));
    ledger.extend(connections.take());
    let mut resumed = Ledger::resumed(ledger.connections, ledger.more);
    resumed.extend(Ledger::resumed(vec![connection(0)], 7));
    assert!(bytes(&resumed) <= CONNECTIONS_MAX_BYTES);
    assert_eq!(resumed.connections.len() as u64 + resumed.more, 208);
}

#[test]
fn what_came_from_a_shared_cache_goes_when_the_trust_in_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = cache(&dir);
    let plan = plan(&["a", "b"]);
    put(&cache, &plan, &[true; 2], &[None; 2]);
    let keys = StageKey::of_plan(&plan, &cache.surroundings);
    let mut record = cache.lease.lookup(&keys[1].0).unwrap().unwrap();
    let (mine, theirs) = (store::Hex([1; 8]), store::Hex([2; 8]));
    let mut used = |signed: Option<KeyId>, key: Option<KeyId>, unsigned: bool| {
        let place = "s3://team".into();
        record.origin = Some(Origin { place, key: signed, fetched: NOW });
        cache.lease.put_record(&record).unwrap();
        cache.rules.trust = Trust { key, unsigned };
        let words = told(&plan, &cache);
        assert_eq!(words[0], "hit", "what was built here");
        assert_eq!(forecast(&plan, &cache, now()).unwrap().outdated(), words[1] != "hit");
        words[1].clone()
    };
    assert_eq!(used(Some(mine), Some(mine), false), "hit");
    assert_eq!(used(Some(mine), None, false), "hit");
    assert_eq!(used(None, None, true), "hit");
    let word = "it came unsigned from s3://team; --remote-unsigned permits that";
    assert_eq!(used(None, None, false), word);
    assert_eq!(used(None, Some(mine), false), word);
    assert!(used(Some(theirs), Some(mine), false).contains("another key"));
}
