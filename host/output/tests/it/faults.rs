//! Full disks, kills and cancellation: nothing is left behind, and nothing is lost.

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::common::{names, with_disk};
use output::{
    BlockSource, Event, FORMATS, Origin, OutputError, Progress, RawFile, Silent, Target,
    write_disks,
};

fn disk_targets(dir: &Path) -> Vec<Target> {
    let disks = FORMATS.iter().filter(|f| f.origin == Origin::Disk);
    disks.map(|f| Target::new(f, dir.join(format!("image.{}", f.suffix)))).collect()
}

/// Runs one of the tests below in a child process, through `wrapper`.
fn again(name: &str, wrapper: &[&str], dir: &Path, disk: &Path) -> Output {
    let mut argv = wrapper.to_vec();
    let own = env::current_exe().unwrap();
    argv.extend([own.to_str().unwrap(), "--exact", name, "--nocapture"]);
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).env("OUTPUT_TEST_DIR", dir).env("OUTPUT_TEST_DISK", disk);
    command.output().unwrap()
}

fn in_child() -> Option<(PathBuf, PathBuf)> {
    let var = |name| env::var_os(name).map(PathBuf::from);
    Some((var("OUTPUT_TEST_DIR")?, var("OUTPUT_TEST_DISK")?))
}

/// The disk, and a directory with old outputs.
fn with_old_outputs() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let (dir, disk) = with_disk();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    for target in disk_targets(&out) {
        fs::write(target.path, "old").unwrap();
    }
    (dir, disk, out)
}

fn assert_untouched(out: &Path) {
    assert_eq!(names(out).len(), disk_targets(out).len(), "{:?}", names(out));
    for target in disk_targets(out) {
        assert_eq!(fs::read(target.path).unwrap(), b"old");
    }
}

#[test]
fn a_full_disk_is_one_clear_error() {
    if let Some((out, disk)) = in_child() {
        for target in disk_targets(&out) {
            let source = RawFile::open(&disk).unwrap();
            let path = target.path.display().to_string();
            let error = write_disks(&source, &[target], &Silent).unwrap_err();
            assert_eq!(error.to_string(), format!("failed to write `{path}`"));
            let OutputError::Io { source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            assert!(error.hint().unwrap().starts_with("make room on the filesystem of"));
            assert_eq!(names(&out), Vec::<String>::new());
        }
        return;
    }
    let (dir, disk) = with_disk();
    let out = dir.path().join("small");
    fs::create_dir(&out).unwrap();
    let mount = format!("mount -t tmpfs -o size=200k none '{}' && exec \"$@\"", out.display());
    let wrapper = ["unshare", "-rm", "sh", "-c", &mount, "sh"];
    let probe = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "x", "/mnt"]).output();
    if !probe.is_ok_and(|p| p.status.success()) {
        eprintln!("not checked: no private mounts on this machine");
        return;
    }
    let run = again("faults::a_full_disk_is_one_clear_error", &wrapper, &out, &disk);
    assert!(run.status.success(), "{run:?}");
}

#[test]
fn a_kill_while_writing_leaves_nothing() {
    if let Some((out, disk)) = in_child() {
        let source = RawFile::open(&disk).unwrap();
        // The kernel kills the process if a file exceeds the limit.
        let _ = write_disks(&source, &disk_targets(&out), &Silent);
        panic!("the limit did not end this process");
    }
    let (_dir, disk, out) = with_old_outputs();
    let wrapper = ["prlimit", "--fsize=100000", "--core=0"];
    if Command::new("prlimit").arg("--version").output().is_err() {
        eprintln!("not checked: prlimit is not installed");
        return;
    }
    let run = again("faults::a_kill_while_writing_leaves_nothing", &wrapper, &out, &disk);
    assert!(run.status.signal().is_some(), "{run:?}");
    assert_untouched(&out);
}

#[test]
fn a_stop_leaves_nothing() {
    struct StopAfterFirst(AtomicBool);
    impl Progress for StopAfterFirst {
        fn event(&self, event: Event<'_>) {
            if matches!(event, Event::Advanced { .. }) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }
    let (_dir, disk, out) = with_old_outputs();
    let source = RawFile::open(&disk).unwrap();
    let stop = StopAfterFirst(AtomicBool::new(false));
    let error = write_disks(&source, &disk_targets(&out), &stop).unwrap_err();
    assert!(matches!(error, OutputError::Cancelled), "{error:?}");
    assert_untouched(&out);
}

#[test]
fn a_disk_that_fails_is_named_and_leaves_nothing() {
    struct Failing(RawFile);
    impl BlockSource for Failing {
        fn len(&self) -> u64 {
            self.0.len()
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
            if offset > 10 << 20 {
                return Err(std::io::Error::other("bad sector"));
            }
            self.0.read_at(offset, buf)
        }
        fn next_data(&self, offset: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
            self.0.next_data(offset)
        }
    }
    let (_dir, disk, out) = with_old_outputs();
    let source = Failing(RawFile::open(&disk).unwrap());
    let error = write_disks(&source, &disk_targets(&out), &Silent).unwrap_err();
    assert!(matches!(error, OutputError::ReadDisk { .. }), "{error:?}");
    assert_untouched(&out);
}
