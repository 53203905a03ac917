//! Machines that cannot boot, and guests that attack their devices: each ends with a clear error.

use std::{fs, time::Duration};

use machine::HaltReason;
use session::{BootOptions, SessionError};
use tests::command;

use crate::{
    harness::{Ground, Prepared, drive, ground, shell},
    program::{make_drive_named, stderr, vbuild},
};

/// Long enough for a boot on an emulated host.
const PATIENCE: Duration = Duration::from_secs(45);

/// The error and the console of a machine that must not boot.
async fn refused(prepared: &Prepared) -> String {
    let options = BootOptions { deadline: PATIENCE, attempts: 1 };
    let error = prepared.boot(&options).await.expect_err("it must not boot");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    format!("{text}\n{}", error.console_tail().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_kernel_is_refused_with_a_reason() {
    let Some(ground) = ground("what_is_no_kernel_is_refused_with_a_reason") else { return };
    let mut prepared = ground.prepare("no-kernel", Vec::new()).await;
    let whole = fs::read(&prepared.spec.kernel).unwrap();
    prepared.spec.kernel = ground.path("vmlinuz");
    fs::write(&prepared.spec.kernel, vec![0; 1 << 20]).unwrap();
    let text = refused(&prepared).await;
    assert!(text.contains("kernel") || text.contains("did not answer"), "{text}");
    // Half a kernel: the error must not be mistaken for a slow guest.
    if prepared.is_own() {
        assert!(text.contains("kernel"), "{text}");
        fs::write(&prepared.spec.kernel, &whole[..whole.len() / 2]).unwrap();
        let text = refused(&prepared).await;
        assert!(text.contains("kernel"), "{text}");
    }
    prepared.spec.kernel = ground.path("nowhere");
    let text = refused(&prepared).await;
    assert!(text.contains("nowhere"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_initramfs_a_tiny_memory_and_a_silent_guest() {
    let name = "a_corrupt_initramfs_a_tiny_memory_and_a_silent_guest";
    let Some(ground) = ground(name) else { return };
    let mut prepared = ground.prepare("corrupt", Vec::new()).await;
    let initrd = std::mem::replace(&mut prepared.spec.initrd, ground.path("initrd"));
    fs::write(&prepared.spec.initrd, [0x5a; 1 << 16]).unwrap();
    let text = refused(&prepared).await;
    assert!(text.contains("panic"), "{text}");
    prepared.spec.initrd = initrd;

    prepared.spec.memory_mib = 32;
    let text = refused(&prepared).await;
    assert!(text.contains("memory") || text.contains("panic"), "{text}");
    prepared.spec.memory_mib = 512;

    // A guest that hangs before its agent runs.
    prepared.spec.cmdline.extend(["panic=0".to_owned(), "rdinit=/nowhere".to_owned()]);
    let text = refused(&prepared).await;
    let silent = text.contains("did not answer within 45 seconds");
    assert!(silent || text.contains("panicked"), "{text}");
}

/// Writes random data to every register of the given devices, or of all.
const RUBBISH: &str = r#"
import ctypes, mmap, os, random, sys
random.seed(4)
wanted = sys.argv[1:]
places = []
for line in open("/proc/iomem"):
    span, _, name = line.strip().partition(" : ")
    if "LNRO0005" in name and (not wanted or name.split()[0] in wanted):
        start, end = (int(part, 16) for part in span.split("-"))
        if start and (start, end) not in places:
            places.append((start, end))
assert places, "no device found"
memory = os.open("/dev/mem", os.O_RDWR | os.O_SYNC)
for start, end in places:
    page = start & ~4095
    window = mmap.mmap(memory, 4096, offset=page)
    for turn in range(4):
        offsets = list(range(start - page, end + 1 - page, 4))
        random.shuffle(offsets)
        for offset in offsets:
            value = random.choice([0, 1, 2, 4, 8, 15, 0xffff, random.getrandbits(32)])
            ctypes.c_uint32.from_buffer(window, offset).value = value
            ctypes.c_uint32.from_buffer(window, offset).value
print(len(places))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_in_every_register_harms_nobody_else() {
    let Some(ground) = ground("rubbish_in_every_register_harms_nobody_else") else { return };
    let victim = ground.path("victim");
    fs::File::create(&victim).unwrap().set_len(1 << 20).unwrap();
    let mut prepared = ground.prepare("rubbish", vec![drive("victim", victim)]).await;
    // Permits root in the guest to map the registers of devices with a driver.
    prepared.spec.cmdline.push("iomem=relaxed".to_owned());
    let session = prepared.must_boot().await;
    session.put_file("/", "/run/rubbish.py", 0o644, RUBBISH.as_bytes()).await.unwrap();
    // Two devices that this test does not need: the guest keeps running.
    let found = "for disk in /sys/block/vd*; do
            if [ \"$(cat $disk/serial)\" = victim ]; then readlink -f $disk/device; fi
        done
        for device in /sys/bus/virtio/drivers/virtio_rng/virtio*; do readlink -f $device; done";
    let paths = shell(&session, found).await;
    let names: Vec<&str> = paths
        .lines()
        .filter_map(|path| path.split('/').find(|part| part.starts_with("LNRO")))
        .collect();
    assert!(!names.is_empty(), "{paths}");
    let script = format!("python3 /run/rubbish.py {}", names.join(" "));
    assert_eq!(shell(&session, &script).await.trim(), names.len().to_string());
    assert_eq!(shell(&session, "echo alive").await.trim(), "alive");
    // All devices, including the agent's own stream: whatever happens to the guest, its machine
    // ends by itself or when killed.
    let machine = std::sync::Arc::clone(session.machine());
    let all = command(&session, &["python3", "/run/rubbish.py"]).output();
    match tokio::time::timeout(PATIENCE, all).await {
        Err(_) | Ok(Ok(_)) => {}
        Ok(Err(error)) => assert!(!error.to_string().is_empty()),
    }
    machine.kill().await;
    let reason = machine.wait().await;
    if prepared.is_own() {
        assert!(!matches!(reason, HaltReason::Lost(_)), "the VMM broke: {reason:?}");
    }
    // A session with a machine that is gone says so.
    let error = command(&session, &["true"]).output().await.unwrap_err();
    assert!(matches!(error, SessionError::Lost { .. } | SessionError::Machine(_)), "{error:?}");
}

/// What root in a guest does to its helper drive with only Python and mke2fs: prints the start of
/// the drive, and writes a qcow2 image over it that references a file of the host. The disk in that
/// image has a valid ext4, so that the next machine mounts it and runs this again.
///
/// - `read`: the first 1024 bytes of the disk are unallocated, so they come from the backing file
///   that the header names; everything else is in the image.
/// - `write`: the first 1024 bytes are in the external data file that the header names, which is
///   written; everything else comes from a backing file, any ext4 of the host.
const TAKE_OVER: &str = r#"
import os, struct, subprocess, sys
kind, victim, other = sys.argv[1:]
CLUSTER, COPIED = 512, 1 << 63

def serial(disk):
    try:
        return open(f"/sys/block/{disk}/serial").read().strip()
    except OSError:
        return None

device = next(f"/dev/{disk}" for disk in os.listdir("/sys/block") if serial(disk) == "vbuild-helper")
with open(device, "rb") as disk:
    os.write(1, disk.read(64))

if kind == "read":
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "/run/fs", "8M"], check=True)
    content = open("/run/fs", "rb").read()
    backing, external = victim, None
else:
    content = bytes(64 << 20)
    backing, external = other, victim

per_table = CLUSTER // 8
clusters = len(content) // CLUSTER
tables = clusters // per_table
# header, refcount table, refcount blocks, L1 table, L2 tables, data
BLOCKS = 128  # of 256 counts each
l1_at = (1 + BLOCKS * 8 // CLUSTER + BLOCKS) * CLUSTER
l2_at = l1_at + (tables * 8 + CLUSTER - 1) // CLUSTER * CLUSTER
data_at = l2_at + tables * CLUSTER
entries, data = [0] * clusters, b""
if kind == "read":
    entries[2:] = [data_at + n * CLUSTER | COPIED for n in range(clusters - 2)]
    data = content[2 * CLUSTER:]
else:
    entries[:2] = [COPIED, CLUSTER | COPIED]
l1 = [l2_at + n * CLUSTER | COPIED for n in range(tables)]

def extension(number, name):
    return struct.pack(">II", number, len(name)) + name + bytes(-len(name) % 8)

extensions = extension(0xe2792aca, b"raw")
if external:
    extensions += extension(0x44415441, external.encode())
extensions += bytes(8)
name_at = 104 + len(extensions)
header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, name_at, len(backing), 9, len(content), 0,
                     tables, l1_at, CLUSTER, BLOCKS * 8 // CLUSTER, 0, 0)
header += struct.pack(">QQQII", 4 if external else 0, 0, 0, 4, 104)
header = (header + extensions + backing.encode()).ljust(CLUSTER, b"\0")
assert len(header) == CLUSTER
tables_of = lambda numbers: b"".join(number.to_bytes(8, "big") for number in numbers)
blocks_at = l1_at - BLOCKS * CLUSTER
used = (data_at + len(data)) // CLUSTER
image = header + tables_of([blocks_at + n * CLUSTER for n in range(BLOCKS)])
image += (b"\0\1" * used).ljust(BLOCKS * CLUSTER, b"\0")
image += tables_of(l1).ljust(l2_at - l1_at, b"\0") + tables_of(entries) + data

subprocess.run(["mount", "-o", "remount,ro", "/helper"], check=True)
with open(device, "r+b") as disk:
    disk.write(image)
    disk.flush()
    os.fsync(disk.fileno())
"#;

/// Runs the attack, and then the same command line once more.
fn take_over(ground: &Ground, kind: &str) {
    const SECRET: &[u8] = b"-----BEGIN OPENSSH PRIVATE KEY-----\nvery secret\n";
    let victim = ground.path("victim");
    let content = [SECRET, &[b'\n'; 4096]].concat();
    fs::write(&victim, &content).unwrap();
    let (name, other) = (format!("{kind}.img"), format!("{kind}-other.img"));
    make_drive_named(ground, &name);
    make_drive_named(ground, &other);
    let run = |options: &[&str]| {
        let words = [&["exec", "--no-network", "--drive", &name], options, &["--"]].concat();
        let mut command = vbuild(ground, &words);
        command.args(["python3", "-c", TAKE_OVER, kind]).arg(&victim).arg(ground.path(&other));
        let output = command.output().unwrap();
        assert!(
            !output.stdout.windows(16).any(|part| SECRET.windows(16).any(|word| part == word)),
            "the guest has read the host's file: {:?}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert!(fs::read(&victim).unwrap() == content, "the guest has written the host's file");
        output
    };
    let first = run(&[]);
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(first.stdout.starts_with(&[0; 64]), "how an ext4 begins: {first:?}");

    // The same command line: refused before any machine starts, with the drive's name.
    let second = run(&[]);
    let text = stderr(&second);
    assert_eq!(second.status.code(), Some(125), "{text}");
    assert!(second.stdout.is_empty());
    for word in [&name, "begins as a qcow2 file does", "--drive-format raw"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    // As a raw drive, it contains the guest's bytes and no filesystem.
    let raw = run(&["--drive-format", "raw"]);
    assert!(stderr(&raw).contains("no filesystem that can be mounted"), "{}", stderr(&raw));
    // Even with the user's explicit format, no other file is opened.
    let qcow2 = run(&["--drive-format", "qcow2"]);
    let text = stderr(&qcow2);
    assert_eq!(qcow2.status.code(), Some(125), "{text}");
    assert!(text.contains(&name) && qcow2.stdout.is_empty(), "{text}");
    let reason = if kind == "read" { "backing file" } else { "external data file" };
    assert!(text.contains(reason), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_a_guest_writes_over_its_drive_leads_nowhere() {
    let name = "a_header_that_a_guest_writes_over_its_drive_leads_nowhere";
    let Some(ground) = ground(name) else { return };
    take_over(&ground, "read");
    take_over(&ground, "write");
}
