//! Machines that cannot boot, and guests that attack their devices: each ends
//! with words that say what happened.

use std::{fs, time::Duration};

use machine::HaltReason;
use session::{BootOptions, SessionError};
use tests::command;

use crate::harness::{Prepared, drive, ground, shell};

/// Long enough for a boot in a machine that is itself emulated.
const PATIENCE: Duration = Duration::from_secs(45);

/// What becomes of a machine that must not boot: the error and its console.
async fn refused(prepared: &Prepared) -> String {
    let options = BootOptions { deadline: PATIENCE, attempts: 1, ..BootOptions::default() };
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
    // Half a kernel: nothing that could be taken for a slow guest.
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

/// Writes rubbish into every register of the devices that are named, or of all.
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
    // Lets root of the guest map the registers of devices that have a driver.
    prepared.spec.cmdline.push("iomem=relaxed".to_owned());
    let session = prepared.must_boot().await;
    session.put_file("/", "/run/rubbish.py", 0o644, RUBBISH.as_bytes()).await.unwrap();
    // Two devices that nothing here depends on: the guest lives on.
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
    // All of them, the agent's own stream included: whatever becomes of the
    // guest, its machine ends by itself or when it is told to.
    let machine = std::sync::Arc::clone(session.machine());
    let all = session.output(command(&["python3", "/run/rubbish.py"]), b"");
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
    let error = session.output(command(&["true"]), b"").await.unwrap_err();
    assert!(matches!(error, SessionError::Lost { .. } | SessionError::Machine(_)), "{error:?}");
}
