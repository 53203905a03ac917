//! Boots machines: the device contract, how machines end, drives and layers.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail tests, and a skip says why"
)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use machine::{
    Backend, BlockSize, Drive, DriveFormat, DriveSerial, HaltReason, MachineError, MachineSpec,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use support::{ECHO_PORT, Guest, SINK_PORT, SOURCE_PORT, boot, drive, guest_files};

#[tokio::test]
async fn boots_answers_and_powers_off() {
    let started = Instant::now();
    let Some(guest) = boot(|_| ()).await else { return };
    println!("first vsock bytes after {:?}, guest says {}", started.elapsed(), guest.greeting);
    assert!(guest.greeting.starts_with("up "));
    assert_eq!(guest.command("ping").await, "pong");
    let counters = guest.machine.counters();
    println!("{counters:?}");
    assert!(counters.iter().any(|(name, value)| name == "rss_kib" && *value > 0));
    assert_eq!(guest.end("poweroff").await, HaltReason::PowerOff);
    assert!(matches!(
        guest.machine.connect(ECHO_PORT).await,
        Err(MachineError::Ended(HaltReason::PowerOff))
    ));
    assert_eq!(guest.machine.wait().await, HaltReason::PowerOff);
}

#[tokio::test]
async fn a_reboot_and_a_panic_are_told_apart() {
    let Some(guest) = boot(|_| ()).await else { return };
    assert_eq!(guest.end("reboot").await, HaltReason::Reboot);
    let Some(guest) = boot(|_| ()).await else { return };
    assert_eq!(guest.end("panic").await, HaltReason::Panic);
    let console = guest.machine.console_tail();
    assert!(console.contains("sysrq triggered crash"), "{console}");
}

#[tokio::test]
async fn kill_and_drop_end_it_at_once() {
    let Some(guest) = boot(|_| ()).await else { return };
    guest.machine.kill().await;
    assert_eq!(guest.machine.wait().await, HaltReason::Killed);

    let Some(mut guest) = boot(|_| ()).await else { return };
    let mut stream = guest.machine.connect(ECHO_PORT).await.unwrap();
    drop(guest.machine);
    assert_eq!(guest.up.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
}

#[tokio::test]
async fn streams_carry_bulk_many_at_once_and_half_close() {
    let Some(guest) = boot(|_| ()).await else { return };
    let machine = &guest.machine;

    // Half-close: the guest replies after the host has closed its direction.
    let mut echo = machine.connect(ECHO_PORT).await.unwrap();
    echo.write_all(b"to and fro").unwrap();
    echo.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    echo.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "to and fro");

    // A port without a listener.
    let mut refused = machine.connect(9999).await.unwrap();
    assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0);

    // Two hundred connections at once, each with its own bytes; opened in batches, since the
    // guest's listen backlog is 128.
    let mut streams = Vec::new();
    for _ in 0..4 {
        let first = streams.len();
        for _ in 0..50 {
            streams.push(machine.connect(ECHO_PORT).await.unwrap());
        }
        for stream in &mut streams[first..] {
            stream.write_all(b"!").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
    }
    let workers: Vec<_> = (0_usize..)
        .zip(streams)
        .map(|(number, mut stream)| {
            thread::spawn(move || {
                let text = format!("{number} ").repeat(2000);
                stream.write_all(text.as_bytes()).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                let mut back = String::new();
                stream.read_to_string(&mut back).unwrap();
                assert_eq!(back, text);
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }

    println!("processor time of QEMU: {} ms", cpu_ms(&guest));
    let megabytes = 256_usize;
    let mut sink = machine.connect(SINK_PORT).await.unwrap();
    let started = Instant::now();
    let chunk = vec![1; 1 << 20];
    for _ in 0..megabytes {
        sink.write_all(&chunk).unwrap();
    }
    sink.shutdown(Shutdown::Write).unwrap();
    let mut count = [0; 8];
    sink.read_exact(&mut count).unwrap();
    assert_eq!(u64::from_le_bytes(count), (megabytes as u64) << 20);
    println!("host to guest: {:.0} MiB/s, {} ms", rate(megabytes, started), cpu_ms(&guest));

    let mut source = machine.connect(SOURCE_PORT).await.unwrap();
    source.write_all(&((megabytes as u64) << 20).to_le_bytes()).unwrap();
    let started = Instant::now();
    let mut total = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read(&mut buffer).unwrap() {
            0 => break,
            count => total += count,
        }
    }
    assert_eq!(total, megabytes << 20);
    println!("guest to host: {:.0} MiB/s, {} ms", rate(megabytes, started), cpu_ms(&guest));
    println!("{:?}", machine.counters());
    drop(guest.up);
    assert_eq!(guest.machine.wait().await, HaltReason::PowerOff);
}

#[expect(clippy::cast_precision_loss, reason = "a number for people")]
fn rate(megabytes: usize, since: Instant) -> f64 {
    megabytes as f64 / since.elapsed().as_secs_f64()
}

/// CPU time of QEMU so far: on a busy host it is more significant than elapsed time.
fn cpu_ms(guest: &Guest) -> u64 {
    let counters = guest.machine.counters();
    counters.iter().find(|(name, _)| name == "cpu_ms").unwrap().1
}

fn sparse(path: &Path, megabytes: u64) {
    fs::File::create(path).unwrap().set_len(megabytes << 20).unwrap();
}

#[tokio::test]
async fn drives_and_layers() {
    let Some(guest) = boot(|spec| {
        let raw = spec.run_dir.join("raw, with a comma.img");
        sparse(&raw, 64);
        let big = spec.run_dir.join("4k.img");
        sparse(&big, 16);
        spec.drives.push(drive("scratch", raw, DriveFormat::Raw));
        spec.drives.push(Drive {
            read_only: true,
            block_size: BlockSize::B4096,
            ..drive("four-k", big, DriveFormat::Raw)
        });
    })
    .await
    else {
        return;
    };
    let info = guest.command("info scratch").await;
    assert!(info.starts_with("sectors=131072 block=512 ro=0 discard="), "{info}");
    assert!(!info.ends_with("discard=0"), "{info}");
    let info = guest.command("info four-k").await;
    assert!(info.starts_with("sectors=32768 block=4096 ro=1"), "{info}");

    assert_eq!(guest.command("write scratch 5 4").await, "written");
    let base = guest.dir.path().join("raw, with a comma.img");
    let serial = DriveSerial::new("scratch").unwrap();
    for layer in ["one.qcow2", "two.qcow2"] {
        let path = guest.dir.path().join(layer);
        guest.machine.push_layer(&serial, &path).await.unwrap();
        let before = fs::read(&base).unwrap();
        assert_eq!(guest.command("write scratch 7 2").await, "written");
        assert_eq!(fs::read(&base).unwrap(), before, "the base is immutable");
        assert!(path.metadata().unwrap().blocks() * 512 >= 2 << 20);
    }
    let expected = (2 * 7 + 2 * 5) << 20;
    assert_eq!(guest.command("read scratch 4").await, format!("sum {expected}"));

    let missing = DriveSerial::new("missing").unwrap();
    let error = guest.machine.push_layer(&missing, &base).await.unwrap_err();
    assert!(error.to_string().contains("no such drive"), "{error}");
    let error = guest.machine.push_layer(&serial, "/no/such/dir/x".as_ref()).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/dir/x"), "{error}");
    assert_eq!(guest.end("poweroff").await, HaltReason::PowerOff);
}

#[tokio::test]
async fn zeroes_become_holes() {
    let Some(guest) = boot(|spec| {
        let raw = spec.run_dir.join("raw.img");
        sparse(&raw, 16);
        spec.drives.push(drive("scratch", raw, DriveFormat::Raw));
    })
    .await
    else {
        return;
    };
    let raw = guest.dir.path().join("raw.img");
    assert_eq!(guest.command("write scratch 9 8").await, "written");
    assert!(raw.metadata().unwrap().blocks() * 512 >= 8 << 20);
    assert_eq!(guest.command("write scratch 0 8").await, "written");
    assert!(raw.metadata().unwrap().blocks() * 512 < 1 << 20);
    guest.machine.kill().await;
}

/// Set if /mnt has a filesystem of 8 MiB.
const SMALL: &str = "VBUILD_TEST_SMALL";

/// Runs this test again in new user and mount namespaces with a small filesystem. The test itself
/// opens the drive, so it needs the filesystem too.
fn in_a_small_place(test: &str) {
    let allowed = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("skipped: no user namespaces for a small file system");
        return;
    }
    let script = "mount -t tmpfs -o size=8m none /mnt && exec \"$@\"";
    let status = Command::new("unshare")
        .args(["-rm", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(SMALL, "1")
        .status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_full_disk_of_the_host_ends_the_machine_with_that_reason() {
    if guest_files().is_none() {
        return;
    }
    if std::env::var_os(SMALL).is_none() {
        in_a_small_place("a_full_disk_of_the_host_ends_the_machine_with_that_reason");
        return;
    }
    let image = PathBuf::from("/mnt/disk.img");
    sparse(&image, 64);
    let with_drive =
        |spec: &mut MachineSpec| spec.drives.push(drive("scratch", image, DriveFormat::Raw));
    let Some(guest) = boot(with_drive).await else { return };
    assert_eq!(
        guest.end("write scratch 1 32").await,
        HaltReason::Lost("the host has no space left for the image of `scratch`".to_owned())
    );
}

#[tokio::test]
async fn bad_files_are_named_before_and_by_qemu() {
    let Some((kernel, initrd)) = guest_files() else { return };
    let dir = tempfile::tempdir().unwrap();
    let good = || support::spec(kernel.clone(), initrd.clone(), dir.path().to_owned());
    let start = |spec| async { support::backend().start(spec).await.unwrap_err() };

    let mut spec = good();
    spec.kernel = "/no/such/kernel".into();
    let error = start(spec).await.to_string();
    assert!(error.contains("/no/such/kernel"), "{error}");

    let image = dir.path().join("not-qcow2");
    sparse(&image, 1);
    let mut spec = good();
    spec.drives.push(drive("bad", image.clone(), DriveFormat::Qcow2));
    let error = start(spec).await.to_string();
    assert!(error.contains("not-qcow2"), "{error}");

    let mut spec = good();
    spec.drives.push(drive("shared", image.clone(), DriveFormat::Raw));
    let first = support::backend().start(spec.clone()).await.unwrap();
    let error = start(spec).await;
    assert!(
        matches!(&error, MachineError::Unavailable { what, hint: Some(_), .. }
            if what.contains("not-qcow2")),
        "{error:?}"
    );
    drop(first);
}

#[tokio::test]
async fn a_helper_that_is_no_helper_is_reported() {
    let Some((kernel, initrd)) = guest_files() else { return };
    let dir = tempfile::tempdir().unwrap();
    let spec = support::spec(kernel, initrd, dir.path().to_owned());
    let backend = support::backend().with_helper("/bin/false".into());
    let error = backend.start(spec).await.unwrap_err().to_string();
    assert!(error.contains("status 1"), "{error}");
}

#[tokio::test]
async fn a_qemu_that_somebody_else_ends_is_lost() {
    let with_mark = |spec: &mut MachineSpec| {
        spec.cmdline.push(format!("mark={}", spec.run_dir.display()));
    };
    let Some(guest) = boot(with_mark).await else { return };
    // Only this guest has the directory on its command line.
    let dir = guest.dir.path().to_str().unwrap();
    let pid: i32 = processes_with(dir).first().unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSEGV).unwrap();
    let lost = HaltReason::Lost("QEMU was ended by signal 11".to_owned());
    assert_eq!(guest.machine.wait().await, lost);
}

/// The processes whose command line contains this word.
fn processes_with(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let Ok(cmdline) = fs::read(entry.path().join("cmdline")) else { continue };
        let text = String::from_utf8_lossy(&cmdline);
        if text.contains("qemu-system") && text.contains(word) {
            found.push(pid);
        }
    }
    found
}

#[test]
fn sigkill_of_the_parent_leaves_no_qemu() {
    let Some((kernel, initrd)) = guest_files() else { return };
    let dir = tempfile::tempdir().unwrap();
    // A name of the initramfs that only this QEMU has on its command line.
    let marked = dir.path().join("initrd-of-the-held-machine");
    fs::copy(initrd, &marked).unwrap();
    let marked = marked.to_str().unwrap();
    let mut parent = Command::new(support::helper())
        .arg("hold")
        .arg(kernel)
        .arg(marked)
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 7];
    parent.stdout.take().unwrap().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"started");
    assert_eq!(processes_with(marked).len(), 1);
    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_with(marked).is_empty() {
        assert!(Instant::now() < deadline, "QEMU outlived its parent");
        thread::sleep(Duration::from_millis(20));
    }
}
