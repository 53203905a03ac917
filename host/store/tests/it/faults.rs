//! Damage, full disks, and deaths at every step.

use std::{
    env, fs,
    io::{self, Read},
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use store::{DiskState, Extent, ExtentSource, Problem, Store, StoreError};

use crate::common::{DISK_BYTES, Memory, key, noise, put, record, store_in};

fn objects(store: &Store) -> Vec<PathBuf> {
    files(store, "objects")
}

fn files(store: &Store, kind: &str) -> Vec<PathBuf> {
    let dirs = fs::read_dir(store.root().join(kind)).unwrap();
    let files = dirs.flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn damage_anywhere_is_a_miss_and_never_a_wrong_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    let good = put(&lease, 1);
    let path = objects(&store).remove(0);
    let content = fs::read(&path).unwrap();
    let mut cases: Vec<Vec<u8>> =
        vec![Vec::new(), b"other".to_vec(), [&content[..], b"more"].concat()];
    for at in [0, 5, 20, content.len() / 2, content.len() - 1] {
        cases.push(content[..at].to_vec());
        let mut flipped = content.clone();
        flipped[at] ^= 1;
        cases.push(flipped);
    }
    for damaged in cases {
        fs::write(&path, &damaged).unwrap();
        let disk = DiskState { bytes: DISK_BYTES as u64, layers: vec![good.digest] };
        let back = dir.path().join("back");
        let error = lease.restore(&disk, &back).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{} bytes: {error}", damaged.len());
        assert!(error.is_miss() && !back.exists());
        assert!(!path.exists(), "a damaged object is removed");
        let again = lease.get_layer(&good.digest, &mut Memory(vec![0; DISK_BYTES]));
        assert!(matches!(again.unwrap_err(), StoreError::Missing(_)));
        assert_eq!(put(&lease, 1), good, "it can be stored again");
    }
    fs::write(&path, b"x").unwrap();
    assert!(lease.merge(&[good.digest]).unwrap_err().is_miss());
}

#[test]
fn verify_finds_and_repairs() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    for number in 1..4 {
        let layer = put(&lease, u64::from(number)).digest;
        lease.put_record(&record(number, &[layer])).unwrap();
    }
    let verified = store.verify(true).unwrap();
    assert_eq!((verified.objects, verified.records, verified.problems.len()), (3, 3, 0));
    fs::write(&objects(&store)[0], b"x").unwrap();
    assert_eq!(store.verify(false).unwrap().problems.len(), 1);
    // With the object gone, its record is incomplete, and goes too.
    assert_eq!(store.verify(true).unwrap().problems.len(), 2);
    let verified = store.verify(true).unwrap();
    assert_eq!((verified.objects, verified.records, verified.problems.len()), (2, 2, 0));
}

#[test]
fn what_cannot_be_read_is_found_repaired_and_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    for number in 1..3 {
        let layer = put(&lease, u64::from(number)).digest;
        lease.put_record(&record(number, &[layer])).unwrap();
    }
    // Links to themselves: root may read files without any permission.
    let make_unreadable = |path: &PathBuf| {
        fs::remove_file(path).unwrap();
        symlink(path, path).unwrap();
    };
    make_unreadable(&files(&store, "stages")[0]);
    let is_there = |number: &u8| lease.lookup(&key(*number)).unwrap().is_some();
    assert_eq!([1, 2].iter().filter(|number| is_there(number)).count(), 1);
    assert_eq!(store.records().unwrap().len(), 1);
    assert_eq!(store.verify(false).unwrap().problems.len(), 1);
    objects(&store).iter().for_each(make_unreadable);
    // The record, two objects, and the record that names one of them.
    assert_eq!(store.verify(true).unwrap().problems.len(), 4);
    assert_eq!(store.verify(true).unwrap().problems, []);
}

#[test]
fn directories_in_the_place_of_files_and_files_in_that_of_directories_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    let layer = put(&lease, 1);
    lease.put_record(&record(1, &[layer.digest])).unwrap();
    let make_directory = |path: &PathBuf| {
        fs::remove_file(path).unwrap();
        fs::create_dir_all(path.join("below")).unwrap();
    };
    for path in files(&store, "objects").iter().chain(&files(&store, "stages")) {
        make_directory(path);
    }
    assert_eq!(lease.lookup(&key(1)).unwrap(), None);
    assert_eq!(store.verify(false).unwrap().problems.len(), 2);
    // What is built again takes their places.
    assert_eq!(put(&lease, 1), layer);
    lease.put_record(&record(1, &[layer.digest])).unwrap();
    assert!(lease.lookup(&key(1)).unwrap().is_some());
    // An object that cannot be opened is a miss.
    let object = files(&store, "objects").remove(0);
    fs::remove_file(&object).unwrap();
    symlink(&object, &object).unwrap();
    assert_eq!(store.content().unwrap().unread, 1);
    assert!(lease.open_blob(&layer.digest).unwrap_err().is_miss());
    // `gc` removes what is in the place of an object that nothing needs.
    fs::create_dir_all(object.join("below")).unwrap();
    lease.forget(&key(1)).unwrap();
    drop(lease);
    store.gc(None).unwrap();
    assert!(!object.exists());
    let sub = store.root().join("stages/zz");
    fs::write(&sub, "").unwrap();
    assert_eq!(store.verify(true).unwrap().problems, [Problem::Unlisted(sub)]);
    assert_eq!(store.verify(true).unwrap().problems, []);
}

#[test]
fn a_source_or_target_that_fails_is_not_blamed_on_the_store() {
    struct Failing(u32);
    impl ExtentSource for Failing {
        fn disk_bytes(&self) -> u64 {
            1 << 30
        }
        fn next_extent(&mut self) -> io::Result<Option<Extent>> {
            self.0 += 1;
            if self.0 > 3 {
                return Err(io::Error::other("bad sector"));
            }
            Ok(Some(Extent::Zeros { offset: u64::from(self.0) * 10, length: 1 }))
        }
    }
    struct Full;
    impl store::ExtentTarget for Full {
        fn extent(&mut self, _: &Extent) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store_in(dir.path());
    let lease = store.lease().unwrap();
    assert!(matches!(lease.put_layer(&mut Failing(0)).unwrap_err(), StoreError::Source(_)));
    assert!(matches!(lease.put_blob(&mut Failing(0)).unwrap_err(), StoreError::Source(_)));
    assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    let layer = put(&lease, 1).digest;
    let error = lease.get_layer(&layer, &mut Full).unwrap_err();
    assert!(matches!(error, StoreError::Target(_)) && !error.is_miss());
    assert_eq!(objects(&store).len(), 1, "the object is as good as before");
}

/// Runs one of the tests below again in a child, by way of `wrapper`.
fn again(name: &str, wrapper: &[&str], dir: &Path, step: u32) -> Output {
    let mut argv = wrapper.to_vec();
    let own = env::current_exe().unwrap();
    argv.extend([own.to_str().unwrap(), "--exact", name, "--nocapture"]);
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).env("STORE_TEST_DIR", dir).env("STORE_TEST_STEP", step.to_string());
    command.output().unwrap()
}

fn in_child() -> Option<(PathBuf, u32)> {
    let dir = env::var_os("STORE_TEST_DIR")?;
    Some((dir.into(), env::var("STORE_TEST_STEP").ok()?.parse().ok()?))
}

/// A build that stores two stages and collects garbage.
fn small_build(store: &Store) -> Result<(), StoreError> {
    let lease = store.lease()?;
    for number in 1..3 {
        let layer = lease.put_layer(&mut noise(u64::from(number)))?;
        let mut done = record(number, &[layer.digest]);
        done.log = Some(lease.put_blob(&mut &b"the log"[..])?);
        lease.put_record(&done)?;
    }
    drop(lease);
    store.gc(Some(30_000)).map(drop)
}

#[test]
fn a_death_at_any_step_leaves_a_store_that_works() {
    if let Some((dir, fatal)) = in_child() {
        let steps = AtomicU32::new(0);
        let on_step = move |_| {
            if steps.fetch_add(1, Ordering::SeqCst) == fatal {
                std::process::abort();
            }
        };
        let store = Store::open_observed(&dir, Some(Arc::new(on_step))).unwrap();
        small_build(&store).unwrap();
        return;
    }
    let mut deaths = 0;
    for step in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let name = "faults::a_death_at_any_step_leaves_a_store_that_works";
        let run = again(name, &["prlimit", "--core=0"], &root, step);
        if run.status.success() {
            break;
        }
        let killed = run.status.signal().is_some();
        assert!(killed, "step {step}: {}", String::from_utf8_lossy(&run.stderr));
        deaths += 1;
        let store = Store::open(&root).unwrap();
        assert_eq!(store.verify(false).unwrap().problems, [], "step {step}");
        let lease = store.lease().unwrap();
        for number in 1..3 {
            if let Some(found) = lease.lookup(&key(number)).unwrap() {
                let back = dir.path().join("back");
                lease.restore(&found.disks["root"], &back).unwrap();
                let Extent::Data { offset, bytes } = noise(u64::from(number)).0.remove(0) else {
                    panic!("noise is data")
                };
                let at = usize::try_from(offset).unwrap();
                assert!(fs::read(&back).unwrap()[at..at + bytes.len()] == bytes);
                fs::remove_file(&back).unwrap();
            }
        }
        drop(lease);
        store.gc(None).unwrap();
        assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0, "step {step}");
        assert_eq!(fs::read_dir(root.join("sessions")).unwrap().count(), 0, "step {step}");
        small_build(&store).unwrap();
    }
    assert!(deaths > 25, "only {deaths} steps were tried");
}

#[test]
fn a_full_disk_is_one_clear_error_and_the_store_works_on() {
    if let Some((dir, _)) = in_child() {
        let store = Store::open(&dir.join("store")).unwrap();
        let lease = store.lease().unwrap();
        let mut stored = Vec::new();
        let error = loop {
            match lease.put_layer(&mut noise(stored.len() as u64)) {
                Ok(layer) => stored.push(layer.digest),
                Err(error) => break error,
            }
        };
        let StoreError::Io { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert!(error.hint().unwrap().contains("vbuild store gc"));
        assert!(stored.len() > 3);
        for digest in &stored {
            lease.get_layer(digest, &mut Memory(vec![0; DISK_BYTES])).unwrap();
        }
        assert_eq!(store.verify(false).unwrap().problems, []);
        drop(lease);
        store.gc(Some(0)).unwrap();
        put(&store.lease().unwrap(), 1);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "x", "/mnt"]).output();
    if !probe.is_ok_and(|p| p.status.success()) {
        eprintln!("not checked: no private mounts on this machine");
        return;
    }
    let mount =
        format!("mount -t tmpfs -o size=200k none '{}' && exec \"$@\"", dir.path().display());
    let wrapper = ["unshare", "-rm", "sh", "-c", &mount, "sh"];
    let name = "faults::a_full_disk_is_one_clear_error_and_the_store_works_on";
    let run = again(name, &wrapper, dir.path(), 0);
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
