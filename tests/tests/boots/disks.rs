//! Drives: written data can be read, also by the host; discards become holes; write protection
//! holds; errors of the host are reported.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use machine::{BlockSize, Drive};
use session::SessionError;
use tests::command;

use crate::harness::{DEV, drive, ground, shell};

const DISK_BYTES: u64 = 64 << 20;
const PATTERN_BYTES: usize = 8 << 20;

fn image(path: &Path) -> PathBuf {
    File::create(path).unwrap().set_len(DISK_BYTES).unwrap();
    path.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_disks_keep_and_give_back() {
    let Some(ground) = ground("four_disks_keep_and_give_back") else { return };
    let path = |name: &str| image(&ground.path(name));
    let target = Drive { durable: true, ..drive("target", path("target")) };
    let large = Drive { block_size: BlockSize::B4096, ..drive("large", path("large")) };
    let tools = Drive { read_only: true, ..drive("tools", path("tools")) };
    fs::write(&tools.path, vec![b't'; 1 << 20]).unwrap();
    let drives = vec![target, large, tools, drive("layered", path("layered"))];
    let prepared = ground.prepare("disks", drives).await;
    let session = prepared.must_boot().await;
    let run = async |script: &str| shell(&session, &format!("{DEV}{script}")).await;

    // Flushed data is in the host's file.
    run("head -c 8M /dev/urandom > /run/pattern
         dd if=/run/pattern of=\"$(dev target)\" bs=1M conv=fsync status=none
         echo 3 > /proc/sys/vm/drop_caches
         cmp -n 8388608 /run/pattern \"$(dev target)\"")
    .await;
    let pattern = session.get_file("/", "/run/pattern", 16 << 20).await.unwrap();
    assert_eq!(pattern.len(), PATTERN_BYTES);
    let mut stored = vec![0; PATTERN_BYTES];
    File::open(ground.path("target")).unwrap().read_exact_at(&mut stored, 0).unwrap();
    assert!(stored == pattern, "the host's file differs");

    // Discarded blocks use no space.
    let blocks = || fs::metadata(ground.path("target")).unwrap().blocks();
    let before = blocks();
    run("blkdiscard -o 0 -l 8388608 \"$(dev target)\"; blockdev --flushbufs \"$(dev target)\"
         cmp -n 8388608 /dev/zero \"$(dev target)\"")
    .await;
    let freed = (before - blocks()) * 512;
    assert!(freed >= PATTERN_BYTES as u64 * 9 / 10, "only {freed} bytes came back");

    // Blocks of 4096 bytes; a filesystem, checked.
    run("test \"$(blockdev --getss \"$(dev large)\")\" = 4096
         mkfs.ext4 -q \"$(dev large)\"; mkdir -p /run/m; mount \"$(dev large)\" /run/m
         cp -a /etc /run/m/; umount /run/m; e2fsck -fn \"$(dev large)\" >/dev/null 2>&1
         echo 3 > /proc/sys/vm/drop_caches
         mount -o ro \"$(dev large)\" /run/m; diff -r --no-dereference /etc /run/m/etc; umount /run/m")
    .await;

    // Read-only drives are write-protected.
    run("test \"$(blockdev --getro \"$(dev tools)\")\" = 1
         ! dd if=/dev/zero of=\"$(dev tools)\" bs=4096 count=1 conv=fsync 2>/dev/null
         test \"$(head -c 4 \"$(dev tools)\")\" = tttt")
    .await;

    // A layer added while the guest runs.
    run("dd if=/run/pattern of=\"$(dev layered)\" bs=1M conv=fsync status=none").await;
    let serial = machine::DriveSerial::new("layered").unwrap();
    let layer = ground.path("layer.qcow2");
    session.machine().push_layer(&serial, &layer).await.unwrap();
    let below = fs::read(ground.path("layered")).unwrap();
    run("head -c 4096 /dev/zero | tr '\\0' 'n' | dd of=\"$(dev layered)\" bs=4096 seek=3 conv=fsync,notrunc status=none
         echo 3 > /proc/sys/vm/drop_caches
         test \"$(dd if=\"$(dev layered)\" bs=4096 skip=3 count=1 status=none | tr -d n | wc -c)\" = 0
         cmp -n 12288 /run/pattern \"$(dev layered)\"")
    .await;
    assert!(fs::read(ground.path("layered")).unwrap() == below, "the layer below has changed");
    session.shutdown(true).await.unwrap();
    assert!(fs::read(ground.path("tools")).unwrap().iter().all(|byte| *byte == b't'));
}

/// Runs a script that uses a failing disk, and returns how the machine ended.
async fn fails(
    ground: &crate::harness::Ground,
    disk: Drive,
    trouble: impl FnOnce(),
    script: &str,
) -> Option<String> {
    let prepared = ground.prepare("trouble", vec![disk]).await;
    let session = prepared.must_boot().await;
    trouble();
    let script = format!("{DEV}{script}");
    match command(&session, &["bash", "-euc", &script]).output().await {
        Err(error @ SessionError::Lost { .. }) => Some(error.to_string()),
        Err(error) => panic!("{error:?}"),
        // QEMU reads zeros beyond the end of a truncated file.
        Ok(output) if !prepared.is_own() && output.status == wire::ExitStatus::Code(0) => None,
        Ok(output) => panic!("{output:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_shrinks_ends_the_machine_with_its_name() {
    let Some(ground) = ground("a_disk_that_shrinks_ends_the_machine_with_its_name") else { return };
    let path = image(&ground.path("shrinks"));
    let shrink = || File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let read =
        "dd if=\"$(dev shrinks)\" of=/dev/null bs=1M skip=8 count=1 iflag=direct status=none";
    if let Some(text) = fails(&ground, drive("shrinks", path.clone()), shrink, read).await {
        assert!(text.contains("failed to read the image of `shrinks`"), "{text}");
    }
}

/// A small filesystem that can be filled; needs root.
struct Small(PathBuf);

impl Small {
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "small"])
            .arg(&path)
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // If it stays mounted, it is in a temporary directory of a test.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_space_ends_the_machine_and_says_so() {
    let Some(ground) = ground("a_host_without_space_ends_the_machine_and_says_so") else { return };
    let Some(small) = Small::mount(ground.path("small")) else {
        println!("skipped: only root can mount a file system that is soon full");
        return;
    };
    let path = image(&small.0.join("grows"));
    let write = "dd if=/dev/urandom of=\"$(dev grows)\" bs=1M count=16 conv=fsync status=none";
    let text = fails(&ground, drive("grows", path), || (), write).await.expect("an end");
    assert!(text.contains("no space left for the image of `grows`"), "{text}");
}
