//! Tests that no record, whatever it contains, causes writes outside of the build directory.

use std::{collections::BTreeSet, fs, path::Path};

use plan::{DiskRole, GuestPath, Outputs, Stage};
use proptest::prelude::*;
use serde_json::{Value, json};
use store::{Digest, Extent, ExtentSource, RECORD_VERSION, Store};

use super::*;

const BYTES: u64 = 8192;

/// A disk with one block of data.
struct One(bool);

impl ExtentSource for One {
    fn disk_bytes(&self) -> u64 {
        BYTES
    }

    fn next_extent(&mut self) -> std::io::Result<Option<Extent>> {
        let first = std::mem::take(&mut self.0);
        Ok(first.then(|| Extent::Data { offset: 0, bytes: vec![7; 4096] }))
    }
}

fn plan() -> Plan {
    let disk = |name: &str, role, size| Disk {
        name: DiskName::new(name).unwrap(),
        role,
        size,
        block_bytes: 512,
        base: None,
    };
    Plan {
        format_version: plan::FORMAT_VERSION,
        name: "test".into(),
        recipe: "test".into(),
        architecture: plan::Architecture::Amd64,
        disks: vec![
            disk("scratch", DiskRole::Scratch, DiskSize::Bytes(BYTES)),
            disk("image0", DiskRole::Target, DiskSize::FactKib("kib".into())),
        ],
        stages: Vec::<Stage>::new(),
        outputs: Outputs::default(),
        helper_at: GuestPath::new("/helper").unwrap(),
    }
}

fn record(disks: &Value) -> Value {
    json!({
        "version": RECORD_VERSION, "key": Digest([1; 32]), "parent": null, "build": "b",
        "kind": "stage", "name": "n", "created": 0, "elapsed_ms": 0, "disks": disks,
        "state": null, "inputs": {}, "fetched": null, "connections": [], "ran": [],
        "log": null, "files": [], "origin": null,
    })
}

/// All files and folders below a folder.
fn tree(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        found.insert(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            tree(&entry.path(), found);
        }
    }
}

/// A home with a store, a build directory, and files that must stay alone.
struct Home {
    root: tempfile::TempDir,
    lease: Lease,
    layer: Digest,
}

impl Home {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let lease = Store::open(&root.path().join("store")).unwrap().lease().unwrap();
        let layer = lease.put_layer(&mut One(true)).unwrap().digest;
        fs::create_dir_all(root.path().join("home/.config/autostart")).unwrap();
        fs::create_dir_all(root.path().join("build/disks")).unwrap();
        Self { root, lease, layer }
    }

    /// Restores from a record as it came; gives whether that was refused, and what is new
    /// outside of the build directory's disks.
    fn restore(&self, record: &Value, kib: Option<&str>) -> (bool, Vec<String>) {
        let outside = || {
            let mut found = BTreeSet::new();
            tree(self.root.path(), &mut found);
            let inside = self.root.path().join("build/disks/").display().to_string();
            found.retain(|path| !path.starts_with(&inside));
            found
        };
        let before = outside();
        let refused = self.try_restore(&serde_json::to_vec(record).unwrap(), kib).is_err();
        let new = outside().difference(&before).cloned().collect();
        for entry in fs::read_dir(self.root.path().join("build/disks")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        (refused, new)
    }

    fn try_restore(&self, record: &[u8], kib: Option<&str>) -> Result<(), String> {
        let record = StageRecord::from_json(record, &Digest([1; 32])).map_err(|e| e.to_string())?;
        let mut state = State::default();
        state.facts.extend(kib.map(|kib| ("kib".to_owned(), kib.to_owned())));
        let files = Disks::new(&self.root.path().join("build"));
        let jobs = jobs(&plan(), &state, &record, &files).map_err(|e| e.to_string())?;
        run(&self.lease, &jobs).map_err(|e| e.to_string())
    }
}

#[test]
fn a_record_of_the_plans_disks_is_restored() {
    let home = Home::new();
    let disk = json!({"bytes": BYTES, "layers": [home.layer]});
    let both = json!({"scratch": disk, "image0": disk});
    assert_eq!(home.restore(&record(&both), Some("8")), (false, Vec::new()));
    // The fact is set by the stage itself: its machine had no such disk yet.
    assert_eq!(home.restore(&record(&json!({"scratch": disk})), Some("8")), (false, Vec::new()));
}

#[test]
fn disks_that_are_not_the_plans_are_refused_before_anything_is_written() {
    let home = Home::new();
    let disk = |bytes: u64| json!({"bytes": bytes, "layers": [home.layer]});
    let foreign = "../../home/.config/autostart/x";
    let cases = [
        (json!({"scratch": disk(BYTES), foreign: disk(BYTES)}), None),
        (json!({"scratch": disk(BYTES), "/etc/x": disk(BYTES)}), None),
        (json!({"scratch": disk(BYTES), "other": disk(BYTES)}), None),
        (json!({"image0": disk(BYTES)}), Some("8")),
        (json!({"scratch": disk(u64::MAX)}), None),
        (json!({"scratch": disk(BYTES), "image0": disk(BYTES)}), Some("16")),
        (json!({"scratch": disk(BYTES), "image0": disk(BYTES)}), None),
        // An exabyte, by a fact that comes with the record.
        (json!({"scratch": disk(BYTES), "image0": disk(1 << 60)}), Some("1125899906842624")),
        (json!({"scratch": {"bytes": BYTES, "layers": vec![home.layer; 65]}}), None),
    ];
    for (disks, kib) in cases {
        assert_eq!(home.restore(&record(&disks), kib), (true, Vec::new()), "{disks}");
    }
}

/// Names as an attacker would choose them, and some that are right.
fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("scratch".to_owned()),
        Just("image0".to_owned()),
        "[a-z0-9./\\-]{0,12}",
        "(\\.\\./){1,4}home/[a-z]{1,3}",
        "/tmp/[a-z]{1,3}",
        ".{0,6}",
    ]
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![Just(BYTES), Just(0), Just(1 << 60), any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_path_leaves_the_build_directory(
        disks in prop::collection::btree_map(names(), (sizes(), 0_usize..3), 0..4),
        kib in prop::option::of("[0-9]{1,20}|8"),
    ) {
        let home = Home::new();
        let disk = |(bytes, layers)| json!({"bytes": bytes, "layers": vec![home.layer; layers]});
        let disks: serde_json::Map<String, Value> =
            disks.into_iter().map(|(name, state)| (name, disk(state))).collect();
        let (_, new) = home.restore(&record(&disks.into()), kib.as_deref());
        prop_assert_eq!(new, Vec::<String>::new());
    }
}
