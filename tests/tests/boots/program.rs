//! The program from the command line, and how it ends: unsuitable drives, signals at any moment, a
//! full disk.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use tests::{names, process_with, vbuild_binary};

use crate::harness::{Ground, ground};

/// The binary with a verb, using the environment's cache.
pub(crate) fn vbuild(ground: &Ground, words: &[&str]) -> Command {
    let mut command = Command::new(vbuild_binary());
    command
        .args(words.first())
        .arg("--cache-dir")
        .arg(&ground.settings.cache_dir)
        .args(["--accel", &ground.settings.accel.to_string()])
        .args(&words[1..])
        .current_dir(ground.dir.path())
        .env("HOME", ground.dir.path())
        .env("TERM", "dumb")
        // The machine's directory is then in the cache, where the tests look for it.
        .env_remove("TMPDIR")
        .stdin(Stdio::null());
    command
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn make_drive(ground: &Ground) {
    make_drive_named(ground, "cache.img");
}

pub(crate) fn make_drive_named(ground: &Ground, name: &str) {
    let make = Command::new(vbuild_binary())
        .args(["cache", "create", name, "--size", "64M"])
        .current_dir(ground.dir.path())
        .env("HOME", ground.dir.path())
        .status()
        .unwrap();
    assert!(make.success());
}

/// Starts a command that never ends, and waits until the guest runs it: the command prints a line.
fn endless(ground: &Ground) -> Child {
    let mut child = vbuild(ground, &["exec", "--no-network", "--drive", "cache.img", "--"])
        .args(["sh", "-c", "echo kept >/helper/note; sync; echo ready; sleep 600"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let output = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// The name of a vbuild process's machine directory, which QEMU's command line contains too.
fn run_name(pid: u32) -> String {
    format!("-{pid}-")
}

fn run_dirs(cache: &Path, pid: u32) -> Vec<String> {
    let own = run_name(pid);
    names(&cache.join("run")).into_iter().filter(|name| name.contains(&own)).collect()
}

/// Waits until a killed machine is gone.
fn wait_for_no_machine(cache: &Path, pid: u32) {
    let word = format!("{}/", cache.join("run").display());
    let own = run_name(pid);
    for _ in 0..100 {
        let alive = run_dirs(cache, pid).iter().any(|name| process_with(&format!("{word}{name}")))
            || process_with(&format!("{word}vbuild-run{own}"));
        if !alive {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("a machine of process {pid} is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn drives_that_do_not_fit_are_refused() {
    let Some(ground) = ground("drives_that_do_not_fit_are_refused") else { return };
    // No filesystem: only the guest can detect that.
    std::fs::File::create(ground.path("empty.img")).unwrap().set_len(16 << 20).unwrap();
    let words = ["exec", "--no-network", "--drive", "empty.img", "--", "true"];
    let output = vbuild(&ground, &words).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("no filesystem that can be mounted"), "{}", stderr(&output));
    assert!(stderr(&output).contains("vbuild cache create"), "{}", stderr(&output));
    // Two processes at once: the second is refused before a machine boots.
    make_drive(&ground);
    let mut first = endless(&ground);
    let words = ["exec", "--no-network", "--drive", "cache.img", "--", "true"];
    let output = vbuild(&ground, &words).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("in use"), "{}", stderr(&output));
    signal(&first, "TERM");
    first.wait().unwrap();
}

fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_the_machine_and_leave_the_drive_whole() {
    let Some(ground) = ground("signals_end_the_machine_and_leave_the_drive_whole") else { return };
    let cache = &ground.settings.cache_dir;
    make_drive(&ground);
    for name in ["INT", "TERM", "KILL"] {
        let mut child = endless(&ground);
        let pid = child.id();
        assert_eq!(run_dirs(cache, pid).len(), 1, "one directory for one machine");
        signal(&child, name);
        let status = child.wait().unwrap();
        wait_for_no_machine(cache, pid);
        if name == "KILL" {
            assert_eq!(status.signal(), Some(9));
        } else {
            assert!(!status.success(), "{name}: {status}");
            assert!(run_dirs(cache, pid).is_empty(), "{name} leaves no directory");
        }
        // The written data is there, and the next run has cleaned up.
        let words = ["exec", "--no-network", "--drive", "cache.img", "--", "cat", "/helper/note"];
        let output = vbuild(&ground, &words).output().unwrap();
        assert_eq!(output.stdout, b"kept\n", "{name}: {}", stderr(&output));
        assert!(run_dirs(cache, pid).is_empty(), "the run after {name} cleans up");
    }
    if let Ok(check) = Command::new("/sbin/e2fsck").args(["-fn"]).arg(drive(&ground)).output() {
        let text = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "{text}");
    } else {
        println!("skipped the check of the drive's filesystem: there is no e2fsck");
    }
}

/// The drive's filesystem as a file for e2fsck, which does not support partitions; a drive made by
/// `cache create` has none.
fn drive(ground: &Ground) -> std::path::PathBuf {
    ground.path("cache.img")
}

/// Needs a full filesystem: a small tmpfs in a user namespace, if the kernel permits that.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_the_earlier_image_survives() {
    let name = "a_full_disk_is_told_and_the_earlier_image_survives";
    let Some(ground) = ground(name) else { return };
    let allowed = Command::new("unshare").args(["-Urm", "true"]).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("skipped {name}: this kernel gives no user namespaces to this user");
        return;
    }
    std::fs::create_dir(ground.path("small")).unwrap();
    std::fs::write(
        ground.path("big.vmdb"),
        "steps:\n- mkimg: \"{{ output }}\"\n  size: 64M\n- mklabel: msdos\n  device: \"{{ output }}\"\n\
         - mkpart: primary\n  device: \"{{ output }}\"\n  start: 1M\n  end: 100%\n  tag: root\n\
         - kpartx: \"{{ output }}\"\n- mkfs: ext4\n  partition: root\n- mount: root\n\
         - shell: head -c 30000000 /dev/urandom > \"$ROOT/big\"\n  root-fs: root\n",
    )
    .unwrap();
    let script = format!(
        "mount -t tmpfs -o size=8m none small; echo earlier >small/out.img; cp big.vmdb small; cd small; \
         status=0; '{}' vmdb big.vmdb --output out.img --cache-dir '{}' --accel {} --no-cache || status=$?; \
         ls -A; cat out.img; exit $status",
        vbuild_binary().display(),
        ground.settings.cache_dir.display(),
        ground.settings.accel,
    );
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-ec", &script])
        .current_dir(ground.dir.path())
        .env("HOME", ground.dir.path())
        .env("TERM", "dumb")
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "big.vmdb\nout.img\nearlier\n", "{text}");
}
