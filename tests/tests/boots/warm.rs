//! Machines restored from one saved memory: each is a machine of its own, with its own disks, time
//! and random numbers.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    time::{Duration, Instant, SystemTime},
};

use machine::{BlockSize, Drive, HaltReason, SavedMachine};
use session::{BootOptions, Session, WarmMachines};
use tests::command;

use crate::harness::{DEV, Prepared, drive, ground, shell};

/// Size of the disk that was not there when the machine was saved.
const DISK_BYTES: u64 = 48 << 20;
/// Number of processes started in a restored machine.
const STORM: usize = 100;
/// Number of restored machines: enough that one does not work by luck.
const RESTORED: usize = 3;

/// What must differ between two machines from one memory.
#[derive(Debug, PartialEq, Eq)]
struct Unique {
    boot_id: String,
    random: String,
}

async fn start(prepared: &Prepared, warm: &WarmMachines) -> (Session, Duration) {
    let begun = Instant::now();
    let options = BootOptions::default();
    let spec = prepared.spec.clone();
    let session = session::start(Some(warm), prepared.backend.as_ref(), spec, &options).await;
    let session = session.unwrap_or_else(|e| panic!("{e}\n{}", e.console_tail().unwrap_or("")));
    (session, begun.elapsed())
}

/// A new disk with this text at its start.
fn disk(path: &std::path::Path, text: &str) -> Drive {
    let file = File::create(path).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    file.write_all_at(text.as_bytes(), 0).unwrap();
    Drive { block_size: BlockSize::B4096, ..drive("data-disk", path.to_owned()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_memory_makes_many_machines() {
    let Some(ground) = ground("one_memory_makes_many_machines") else { return };
    let warm = WarmMachines::new(ground.path("warm"));
    let mut seen: Vec<Unique> = Vec::new();
    for number in 0..RESTORED {
        let path = ground.path(&format!("disk-{number}"));
        let text = format!("machine {number}");
        let prepared = ground.prepare("warm-test", vec![disk(&path, &text)]).await;
        let begun = Instant::now();
        let identity = prepared.backend.saving_identity(&prepared.spec).await;
        assert!(identity.is_some(), "the backend cannot save machines");
        println!("the identity took {:?}", begun.elapsed());
        let (session, took) = start(&prepared, &warm).await;
        let hello = session.hello();
        println!("restored start {number}: {:?}, in all {took:?}", hello.boot);
        assert!(hello.restored, "machine {number} has booted");

        let unique = Unique {
            boot_id: shell(&session, "cat /proc/sys/kernel/random/boot_id").await,
            random: shell(&session, "od -An -tx1 -N32 /dev/urandom").await,
        };
        for other in &seen {
            assert_ne!(unique.boot_id, other.boot_id);
            assert_ne!(unique.random, other.random);
        }
        seen.push(unique);

        the_time_is_right(&session).await;
        the_disk_is_there(&session, &text).await;
        both_processors_work(&session).await;
        storm(&session).await;

        let machine = std::sync::Arc::clone(session.machine());
        println!("counters {number}: {:?}", machine.counters());
        session.shutdown(true).await.unwrap();
        assert_eq!(machine.wait().await, HaltReason::PowerOff);
        let mut written = [0; 7];
        File::open(&path).unwrap().read_exact_at(&mut written, 40 << 20).unwrap();
        assert_eq!(&written, b"written");
    }
    let saved: Vec<_> = fs::read_dir(ground.path("warm")).unwrap().collect();
    assert_eq!(saved.len(), 1, "saved once: {saved:?}");
    // The same machine without a saved memory, to compare with.
    let disk = disk(&ground.path("cold-disk"), "cold");
    let prepared = ground.prepare("warm-test", vec![disk]).await;
    let session = prepared.must_boot().await;
    println!("cold start: {:?}", session.hello().boot);
    assert!(!session.hello().restored);
    if prepared.is_own() {
        // It was not started to be saved, which does it no harm.
        let into = SavedMachine(ground.path("never"));
        fs::create_dir(&into.0).unwrap();
        assert!(session.machine().save(&into).await.is_err());
        assert_eq!(shell(&session, "echo alive").await, "alive\n");
    }
    session.shutdown(true).await.unwrap();
}

async fn the_time_is_right(session: &Session) {
    let seen: f64 = shell(session, "date +%s.%N").await.trim().parse().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((seen - now).abs() < 10.0, "the guest's clock differs by {} s", seen - now);
    // Time goes on on each processor, and at the same pace.
    let script = "for cpu in 0 1; do
            taskset -c $cpu sh -c 'a=$(date +%s%N); sleep 0.2; b=$(date +%s%N); echo $((b - a))'
        done";
    for slept in shell(session, script).await.split_whitespace() {
        let slept = Duration::from_nanos(slept.parse().unwrap());
        assert!(slept >= Duration::from_millis(200), "a sleep of 0.2 s took {slept:?}");
        assert!(slept < Duration::from_secs(20), "a sleep of 0.2 s took {slept:?}");
    }
}

/// The disk has its own size, blocks and content, and can be written.
async fn the_disk_is_there(session: &Session, text: &str) {
    let script = format!(
        "{DEV}disk=$(dev data-disk)
         test \"$(blockdev --getsize64 $disk)\" = {DISK_BYTES}
         test \"$(blockdev --getss $disk)\" = 4096
         test \"$(blockdev --getro $disk)\" = 0
         head -c {} $disk; echo
         printf written | dd of=$disk bs=1M seek=40 conv=fsync,notrunc status=none
         head -c 4M /dev/urandom > /run/noise
         dd if=/run/noise of=$disk bs=1M seek=8 conv=fsync status=none
         echo 3 > /proc/sys/vm/drop_caches
         dd if=$disk bs=1M skip=8 count=4 status=none | cmp - /run/noise
         ls /sys/block | grep -c '^vd'",
        text.len(),
    );
    let seen = shell(session, &script).await;
    // Spare disks have no driver: there are the root and this one.
    assert_eq!(seen.lines().collect::<Vec<_>>(), [text, "2"]);
}

async fn both_processors_work(session: &Session) {
    let script = "nproc; for cpu in 0 1; do
            taskset -c $cpu sh -c 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo $i'
        done";
    let seen = shell(session, script).await;
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["2", "2000", "2000"]);
}

/// Starts many processes, in sequence and in parallel.
async fn storm(session: &Session) {
    let script = format!("i=0; while [ $i -lt {STORM} ]; do /bin/true; i=$((i+1)); done; echo $i");
    assert_eq!(shell(session, &script).await.trim(), STORM.to_string());
    let tasks: Vec<_> = (0..STORM / 4)
        .map(|number| {
            let session = session.clone();
            let number = number.to_string();
            tokio::spawn(async move {
                command(&session, &["echo", &number]).output().await.unwrap().stdout
            })
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), format!("{number}\n").into_bytes());
    }
}
