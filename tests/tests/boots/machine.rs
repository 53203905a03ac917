//! The machine itself: CPUs, many processes, all ways to end, and the restrictions of its process.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use machine::HaltReason;
use session::SessionError;
use tests::command;

use crate::harness::{Prepared, drive, field, ground, shell};

/// Number of processes started, in sequence and in parallel.
const STORM: usize = 200;
const AT_ONCE: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn as_many_processors_as_asked_for() {
    for vcpus in [1, 2, 4] {
        let Some(mut ground) = ground("as_many_processors_as_asked_for") else { return };
        ground.settings.vcpus = vcpus;
        let (session, _dir) = ground.boot().await;
        let seen = shell(&session, "nproc; grep -c ^processor /proc/cpuinfo; date +%s").await;
        let words: Vec<&str> = seen.split_whitespace().collect();
        assert_eq!(words[..2], [vcpus.to_string(), vcpus.to_string()]);
        // The guest's clock matches the host's.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let difference = words[2].parse::<u64>().unwrap().abs_diff(now.as_secs());
        assert!(difference < 60, "the guest's clock differs by {difference} s");
        if vcpus == 4 {
            storm(&session).await;
        }
        let machine = std::sync::Arc::clone(session.machine());
        session.shutdown(true).await.unwrap();
        assert_eq!(machine.wait().await, HaltReason::PowerOff);
    }
}

/// Starts many short processes, and many in parallel.
async fn storm(session: &session::Session) {
    let script = format!("i=0; while [ $i -lt {STORM} ]; do /bin/true; i=$((i+1)); done; echo $i");
    assert_eq!(shell(session, &script).await.trim(), STORM.to_string());
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|number| {
            let session = session.clone();
            tokio::spawn(async move { shell(&session, &format!("echo {number}")).await })
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("{number}\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_is_not_a_power_off() {
    let Some(ground) = ground("a_reboot_is_not_a_power_off") else { return };
    let (session, _dir) = ground.boot().await;
    let machine = std::sync::Arc::clone(session.machine());
    let gone = command(&session, &["sh", "-c", "echo b > /proc/sysrq-trigger; sleep 60"]).output();
    let error = gone.await.unwrap_err();
    assert!(error.to_string().contains("asked for a reboot"), "{error}");
    assert_eq!(machine.wait().await, HaltReason::Reboot);
}

/// Checks that every thread of the process has a seccomp list and `no_new_privs`.
fn assert_listed(pid: u32) {
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let name = field(&status, "Name");
        assert_eq!(field(&status, "Seccomp"), "2", "thread {name} has no list of system calls");
        assert_eq!(field(&status, "NoNewPrivs"), "1", "thread {name} may gain privileges");
        threads += 1;
    }
    assert!(threads > 1, "its devices have threads");
}

/// Checks that the process dumps no memory, has no environment, and has only the passed
/// descriptors.
fn assert_bare(pid: u32, prepared: &Prepared) {
    let process = Path::new("/proc").join(pid.to_string());
    let limits = fs::read_to_string(process.join("limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    // One byte where the program was replaced: this limit also applies to piped cores.
    assert!(matches!(core.split_whitespace().nth(4), Some("0" | "1")), "{core}");
    let Ok(open) = fs::read_dir(process.join("fd")) else {
        println!("skipped a part: only root sees the files of a process that hides its memory");
        return;
    };
    // A process that is not dumpable hides this too; root sees both.
    let environment = fs::read_to_string(process.join("environ")).unwrap_or_default();
    assert!(environment.split('\0').all(|variable| {
        variable.is_empty()
            || ["LD_LIBRARY_PATH=", "QEMU_MODULE_DIR="].iter().any(|it| variable.starts_with(it))
    }));
    let mut allowed: Vec<_> = prepared.spec.drives.iter().map(|drive| drive.path.clone()).collect();
    allowed.push("/dev/null".into());
    for link in open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let text = link.display().to_string();
        let kinds = ["/memfd:", "anon_inode:", "socket:", "pipe:", "/dev/kvm"];
        let known = kinds.iter().any(|kind| text.starts_with(kind));
        assert!(known || allowed.contains(&link), "it holds `{text}`, which nobody gave it");
    }
}

fn kill_nine(pid: u32) {
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(killed.unwrap().success());
}

/// A session whose machine is killed; returns the reason.
async fn lost(session: &session::Session, pid: u32) -> String {
    let mut child = command(session, &["sleep", "600"]).spawn().await.unwrap();
    kill_nine(pid);
    let error = child.next().await.expect_err("the machine is gone");
    let SessionError::Lost { reason: HaltReason::Lost(text), .. } = &error else {
        panic!("{error:?}")
    };
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it has been waited for");
    text.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_process_is_killed_is_lost() {
    let Some(ground) = ground("a_machine_whose_process_is_killed_is_lost") else { return };
    let prepared = ground.prepare("kill-nine", Vec::new()).await;
    let session = prepared.must_boot().await;
    let pid = prepared.process();
    let text = lost(&session, pid).await;
    assert!(text.contains("SIGKILL") || text.contains("signal 9"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machine_holds_what_it_was_given_and_runs_confined() {
    let Some(ground) = ground("the_machine_holds_what_it_was_given_and_runs_confined") else {
        return;
    };
    let disk = ground.path("disk");
    fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let prepared = ground.prepare("held", vec![drive("disk", disk)]).await;
    let session = prepared.must_boot().await;
    let pid = prepared.process();
    assert_listed(pid);
    assert_bare(pid, &prepared);
    // The machine's own report, which the user sees too.
    let held = session.machine().confinement();
    assert_eq!(held.len(), if prepared.is_own() { 1 } else { 2 });
    for held in held.iter().filter(|held| !held.lacks().is_empty()) {
        println!("this kernel grants less: {}", held.lacks().join(", "));
    }
    session.shutdown(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vsock_device_beside_qemu_is_confined_too() {
    const NAME: &str = "the_vsock_device_beside_qemu_is_confined_too";
    let Some(ground) = ground(NAME) else { return };
    let prepared = ground.prepare("vsock-process", Vec::new()).await;
    if prepared.is_own() {
        println!("skipped {NAME}: the own VMM's device is a thread of its process");
        return;
    }
    let session = prepared.must_boot().await;
    let devices = prepared.device_processes();
    let [pid] = devices[..] else { panic!("one process for one device: {devices:?}") };
    assert_listed(pid);
    assert_bare(pid, &prepared);
    let text = lost(&session, pid).await;
    assert!(text.contains("vsock") && text.contains("SIGKILL"), "{text}");
}

/// Memory that the guest allocates and frees.
const TAKEN_MIB: u64 = 200;
/// Linux reports free pages two seconds after they are freed, in portions.
const RETURN_LIMIT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_the_guest_has_freed_goes_back_to_the_host() {
    let name = "memory_that_the_guest_has_freed_goes_back_to_the_host";
    let Some(ground) = ground(name) else { return };
    let prepared = ground.prepare("memory", Vec::new()).await;
    if !prepared.is_own() {
        println!("skipped {name}: QEMU's machine has no such device");
        return;
    }
    let session = prepared.must_boot().await;
    let resident = || {
        let counters = session.machine().counters();
        counters.iter().find(|(name, _)| name == "rss_guest_kib").unwrap().1 >> 10
    };
    shell(&session, &format!("head -c {TAKEN_MIB}M /dev/zero > /run/taken")).await;
    let taken = resident();
    shell(&session, "rm /run/taken").await;
    let started = Instant::now();
    while resident() + TAKEN_MIB / 2 > taken {
        let now = resident();
        assert!(started.elapsed() < RETURN_LIMIT, "of {taken} MiB the guest still has {now}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(shell(&session, "echo alive").await, "alive\n");
    session.shutdown(true).await.unwrap();
}
