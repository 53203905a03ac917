//! Compares vbuild's own VMM with QEMU's microvm machine, both with KVM, on the same machine.
//! `tests/lab.sh bench` runs it in level 1; it also runs natively where /dev/kvm is real.
//!
//! Prints figures and ratios without assertions, as they depend on the load.
//! `VBUILD_BENCH_ACCEL=tcg` makes QEMU emulate, to test the benchmark itself.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "figures are what it is for")]
#![expect(unreachable_pub, reason = "a benchmark has no outside")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use machine::ConnectDecision;
use qemu::{Qemu, QemuAccel};
use session::{BootOptions, Session};

#[path = "../tests/boots/harness.rs"]
#[expect(dead_code, reason = "the harness serves the tests that boot; this takes a part of it")]
mod harness;

use harness::{Ground, Prepared, drive, field, shell};
use tests::command;

/// Boots of each backend; the fastest counts.
const BOOTS: usize = 3;
/// Size of the disk, which is read and written sequentially.
const DISK_BYTES: u64 = 128 << 20;
/// Bytes sent by the guest.
const BULK_BYTES: u64 = 32 << 20;
/// The port on which the host reads them.
const BULK_PORT: u32 = 6000;
/// Number of reads, and of writes, at random offsets.
const RANDOM_REQUESTS: u32 = 500;
/// Memory that the guest allocates and frees.
const TAKEN_MIB: u64 = 256;

/// Writes 1 MiB at a time, bypassing the page cache, non-zero data (both VMMs make holes of zeros);
/// then reads and writes 4096 bytes at random offsets.
const MEASURE: &str = r#"
import mmap, os, random, sys, time
random.seed(1)
disk = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
size, count = int(sys.argv[2]), int(sys.argv[3])
large = mmap.mmap(-1, 1 << 20)
large.write(os.urandom(1 << 20))
for call in os.pwritev, os.preadv:
    start = time.monotonic()
    for place in range(0, size, 1 << 20):
        call(disk, [large], place)
    print((size >> 20) / (time.monotonic() - start))
small = mmap.mmap(-1, 4096)
places = [random.randrange(size // 4096) * 4096 for _ in range(count)]
for call in os.preadv, os.pwritev:
    start = time.monotonic()
    for place in places:
        call(disk, [small], place)
    print(count / (time.monotonic() - start))
"#;

/// The names of the printed figures.
const BLOCK_FIGURES: [&str; 4] = [
    "sequential write, MiB/s",
    "sequential read, MiB/s",
    "4k random reads/s",
    "4k random writes/s",
];

/// Sends zeros to the host as fast as possible.
const SEND: &str = r#"
import socket, sys
stream = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
stream.connect((2, 6000))
block, left = bytes(1 << 20), int(sys.argv[1])
while left:
    stream.sendall(block)
    left -= len(block)
stream.shutdown(socket.SHUT_WR)
stream.recv(1)
"#;

/// Rounds per backend, alternating: the first also pays for memory that the machine below touches
/// for the first time. The better figure of each counts.
const ROUNDS: usize = 2;

type Figures = BTreeMap<&'static str, f64>;

/// Records a figure, and prints it at once: in the lab the next one takes minutes.
fn note(figures: &mut Figures, name: &'static str, value: f64) {
    println!("  {name}: {value:.2}");
    figures.insert(name, value);
}

fn rate(bytes: u64, took: Duration) -> f64 {
    f64::from(u32::try_from(bytes >> 20).unwrap()) / took.as_secs_f64()
}

/// Reads everything and closes, which tells the guest that all data has arrived.
fn swallow(mut stream: UnixStream) {
    let mut buffer = vec![0; 1 << 20];
    while stream.read(&mut buffer).is_ok_and(|len| len > 0) {}
}

/// Resident memory in MiB: the VMM's own, and the guest's. Under QEMU the guest's is a memfd and so
/// counted as shared; vbuild's own VMM reports it.
fn resident(session: &Session, prepared: &Prepared) -> (f64, f64) {
    if prepared.is_own() {
        let counters: BTreeMap<_, _> = session.machine().counters().into_iter().collect();
        return (mib(counters["rss_kib"]), mib(counters["rss_guest_kib"]));
    }
    let path = format!("/proc/{}/status", prepared.process());
    let status = fs::read_to_string(path).unwrap();
    let kib =
        |name| field(&status, name).split_whitespace().next().unwrap().parse::<u64>().unwrap();
    (mib(kib("RssAnon") + kib("RssFile")), mib(kib("RssShmem")))
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap()) / 1024.0
}

async fn block(session: &Session, figures: &mut Figures) {
    let find = "for d in /sys/block/vd*; do
        if [ \"$(cat $d/serial)\" = bench ]; then echo /dev/${d##*/}; fi; done";
    let disk = shell(session, find).await.trim().to_owned();
    session.put_file("/", "/run/measure.py", 0o644, MEASURE.as_bytes()).await.unwrap();
    let script = format!("python3 /run/measure.py {disk} {DISK_BYTES} {RANDOM_REQUESTS}");
    let said = shell(session, &script).await;
    for (line, name) in said.lines().zip(BLOCK_FIGURES) {
        note(figures, name, line.parse().unwrap());
    }
}

async fn memory(session: &Session, prepared: &Prepared, figures: &mut Figures) {
    let guest = || resident(session, prepared).1;
    let before = guest();
    shell(session, &format!("head -c {TAKEN_MIB}M /dev/urandom > /run/taken")).await;
    let taken = guest();
    shell(session, "rm /run/taken; echo 3 > /proc/sys/vm/drop_caches; sleep 20").await;
    let after = guest();
    note(figures, "guest memory taken, MiB", taken - before);
    note(figures, "of it given back, MiB", taken - after);
}

async fn measure(ground: &Ground, own: bool) -> Figures {
    let mut figures = Figures::new();
    let path = ground.path("bench.raw");
    File::create(&path).unwrap().set_len(DISK_BYTES).unwrap();
    let mut prepared = ground.prepare("bench", vec![drive("bench", path)]).await;
    if !own {
        let accel = match std::env::var("VBUILD_BENCH_ACCEL").as_deref() {
            Ok("tcg") => QemuAccel::Tcg,
            _ => QemuAccel::Kvm,
        };
        let qemu = Qemu::new(machine::MachineArchitecture::of_host(), None, accel)
            .unwrap()
            .with_helper(tests::vbuild_binary());
        prepared.backend = Arc::new(qemu);
    }
    prepared.spec.on_guest_connect = Arc::new(|request| {
        if request.port != BULK_PORT {
            return ConnectDecision::Refuse;
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || swallow(ours));
        ConnectDecision::Accept(theirs)
    });
    let mut quickest = Duration::MAX;
    for boot in 0..BOOTS {
        let started = Instant::now();
        let session = prepared.boot(&BootOptions::default()).await.unwrap();
        quickest = quickest.min(started.elapsed());
        for (name, value) in session.machine().counters() {
            if name.starts_with("exits_") && boot == 0 {
                println!("  {name}: {value}");
            }
        }
        if boot == 0 {
            let (own, guest) = resident(&session, &prepared);
            note(&mut figures, "VMM's own memory, MiB", own);
            note(&mut figures, "guest memory after the boot, MiB", guest);
        }
        if boot + 1 < BOOTS {
            session.shutdown(false).await.unwrap();
            continue;
        }
        block(&session, &mut figures).await;
        let started = Instant::now();
        let send = command(&session, &["python3", "-c", SEND, &BULK_BYTES.to_string()]);
        send.output().await.unwrap();
        note(&mut figures, "vsock from the guest, MiB/s", rate(BULK_BYTES, started.elapsed()));
        memory(&session, &prepared, &mut figures).await;
        session.shutdown(false).await.unwrap();
    }
    note(&mut figures, "start to hello, s", quickest.as_secs_f64());
    figures
}

/// Keeps the higher figure of a rate, and the lower one of a time or a size.
fn keep_better(best: &mut Figures, figures: Figures) {
    for (name, value) in figures {
        let kept = best.entry(name).or_insert(value);
        *kept = if name.ends_with("/s") { kept.max(value) } else { kept.min(value) };
    }
}

#[tokio::main]
async fn main() {
    let Some(mut ground) = harness::ground("vmm") else { return };
    // More vCPUs than host CPUs would wait for each other.
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ground.settings.vcpus = ground.settings.vcpus.min(u8::try_from(processors).unwrap_or(u8::MAX));
    let (mut own, mut theirs) = (Figures::new(), Figures::new());
    for _ in 0..ROUNDS {
        println!("the own VMM");
        keep_better(&mut own, measure(&ground, true).await);
        println!("QEMU's microvm");
        keep_better(&mut theirs, measure(&ground, false).await);
    }
    println!("{:<32} {:>10} {:>10} {:>8}", "", "own VMM", "QEMU", "ratio");
    for (name, value) in &own {
        let other = theirs[name];
        println!("{name:<32} {value:>10.2} {other:>10.2} {:>8.2}", value / other);
    }
}
