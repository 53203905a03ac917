//! Records, sessions, gc and the size of the store.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    time::{Duration, SystemTime},
};

use store::{Digest, Problem, Store, StoreError};

use crate::common::{key, put, record, store_in};

fn used_at(store: &Store, number: u8, seconds: u64) {
    let hex = key(number).to_string();
    let path = store.root().join("stages").join(&hex[..2]).join(format!("{}.json", &hex[2..]));
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn records_come_back_only_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    assert_eq!(lease.lookup(&key(1)).unwrap(), None);
    let layer = put(&lease, 1).digest;
    let mut full = record(1, &[layer]);
    full.log = Some(lease.put_blob(&mut &b"what it said"[..]).unwrap());
    lease.put_record(&full).unwrap();
    assert_eq!(lease.lookup(&key(1)).unwrap(), Some(full.clone()));
    let mut log = Vec::new();
    lease.get_blob(&full.log.unwrap(), &mut log).unwrap();
    assert_eq!(log, b"what it said");

    let missing = lease.put_record(&record(2, &[Digest([7; 32])])).unwrap_err();
    assert!(matches!(missing, StoreError::Missing(_)), "{missing}");
    let hex = layer.to_string();
    fs::remove_file(store.root().join("objects").join(&hex[..2]).join(&hex[2..])).unwrap();
    assert_eq!(lease.lookup(&key(1)).unwrap(), None);
    lease.forget(&key(1)).unwrap();
    lease.forget(&key(1)).unwrap();
    assert_eq!(store.usage().unwrap().stages, 0);
}

#[test]
fn ages_survive_clocks_that_are_set_back() {
    let record = record(1, &[]);
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(record.age(at(1_000_000_060)), Some(Duration::from_secs(60)));
    assert_eq!(record.age(at(999_999_999)), None);
}

#[test]
fn records_of_other_versions_are_misses() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    let mut newer = record(1, &[]);
    newer.version = 99;
    lease.put_record(&newer).unwrap();
    assert_eq!(lease.lookup(&key(1)).unwrap(), None);
    let found = store.verify(false).unwrap().problems;
    assert!(
        matches!(&found[..], [Problem::BadRecord { reason, .. }] if reason.as_str().contains("99"))
    );
    store.verify(true).unwrap();
    assert_eq!(store.usage().unwrap().stages, 0);
}

#[test]
fn other_directories_and_newer_stores_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("letter"), "dear").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::NoStore { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

    let store = store_in(dir.path());
    fs::write(store.root().join("format"), "vbuild store 2\n").unwrap();
    let error = Store::open(store.root()).unwrap_err();
    assert!(matches!(error, StoreError::OtherVersion { found: 2, known: 1, .. }), "{error}");
    assert!(error.hint().unwrap().contains("use the vbuild that made it"));
    fs::write(store.root().join("format"), "else").unwrap();
    assert!(Store::open(store.root()).is_err());
}

#[test]
fn gc_takes_what_was_used_least_recently() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    let shared = put(&lease, 100).digest;
    for number in 1..=4 {
        let own = put(&lease, u64::from(number)).digest;
        lease.put_record(&record(number, &[shared, own])).unwrap();
    }
    put(&lease, 200);
    drop(lease);
    // The order of use is 3, 1, 4, 2.
    for (seconds, number) in [(10, 3), (20, 1), (30, 4), (40, 2)] {
        used_at(&store, number, seconds);
    }
    let before = store.usage().unwrap();
    assert_eq!((before.objects, before.stages, before.sessions), (6, 4, 0));
    let nothing = store.gc(None).unwrap();
    assert_eq!((nothing.objects, nothing.stages.len()), (1, 0), "only the nameless one goes");
    let each = before.bytes / 6;
    let collected = store.gc(Some(each * 3)).unwrap();
    assert_eq!(collected.stages, ["stage 3", "stage 1"]);
    assert_eq!((collected.left.objects, collected.left.stages), (3, 2));
    assert_eq!(collected.bytes, each * 2);
    let all = store.gc(Some(0)).unwrap();
    assert_eq!((all.left.objects, all.left.stages), (0, 0), "{all:?}");
}

#[test]
fn gc_leaves_what_a_running_build_needs() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let first = store.lease().unwrap();
    let layers = [put(&first, 1).digest, put(&first, 2).digest];
    first.put_record(&record(1, &layers[..1])).unwrap();
    first.put_record(&record(2, &layers[1..])).unwrap();
    drop(first);
    let build = store.lease().unwrap();
    build.lookup(&key(1)).unwrap().unwrap();
    let new = put(&build, 3).digest;
    let collected = store.gc(Some(0)).unwrap();
    assert_eq!(collected.stages, ["stage 2"]);
    assert_eq!(collected.left.sessions, 1);
    let mut memory = crate::common::Memory(vec![0; crate::common::DISK_BYTES]);
    build.get_layer(&layers[0], &mut memory).unwrap();
    build.get_layer(&new, &mut memory).unwrap();
    drop(build);
    assert_eq!(store.gc(Some(0)).unwrap().left.objects, 0);
}

#[test]
fn a_session_is_used_by_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (lease, store) = (&lease, &store);
            scope.spawn(move || {
                for n in 0..5u8 {
                    let number = thread * 5 + n;
                    // Two threads store the same.
                    let layer = put(lease, u64::from(number % 10)).digest;
                    lease.put_record(&record(number + 1, &[layer])).unwrap();
                    store.gc(None).unwrap();
                }
            });
        }
    });
    let usage = store.usage().unwrap();
    assert_eq!((usage.objects, usage.stages), (10, 20));
    assert_eq!(store.verify(false).unwrap().problems, []);
}

#[test]
fn a_store_that_cannot_be_written_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    let tmp = store.root().join("tmp");
    fs::remove_dir(&tmp).unwrap();
    let error = lease.put_blob(&mut &b"x"[..]).unwrap_err();
    assert!(error.to_string().starts_with("failed to create `"), "{error}");
    fs::create_dir(&tmp).unwrap();
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o700)).unwrap();
    lease.put_blob(&mut &b"x"[..]).unwrap();
}
