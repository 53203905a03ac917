//! Runs the shell scripts of this crate, where the host allows it.

use std::{fs, process::Command};

const SAVE: &str = include_str!("../../scripts/save-mounts.sh");
const RESTORE: &str = include_str!("../../scripts/restore-mounts.sh");
const UNMOUNT: &str = include_str!("../../scripts/unmount-below.sh");
const CHROOT: &str = include_str!("../../scripts/chroot");
const USAGE: &str = include_str!("../../scripts/image-usage.sh");

#[test]
fn the_usage_report_lists_large_files() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("large"), vec![1; 11 << 20]).unwrap();
    fs::write(root.path().join("small"), vec![1; 1 << 20]).unwrap();
    let report = |full: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", USAGE, "usage"]).arg(root.path()).args(full);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let short = report(&[]);
    assert!(
        short.starts_with("=================================\nImage size report (files > 10MiB)\n")
    );
    assert!(short.contains("/large") && !short.contains("/small"), "{short}");
    assert!(report(&["full"]).contains("/small"));
}

/// apt's shared directory survives `apt-get clean`, and returns the lists.
#[test]
fn what_apt_downloaded_stays_on_the_drive() {
    let root = tempfile::tempdir().unwrap();
    let script = r#"
set -eu
cd "$1"
mkdir -p bin tree/var/cache/apt/archives tree/var/lib/apt
printf '%s' "$2" > bin/chroot
# What the real one would do: `clean` empties, `update` writes a list if it can.
printf '#!/bin/sh\necho "real: $3"\n[ "$3" != update ] || [ -n "${OFFLINE:-}" ] || echo fresh >> "$1/var/lib/apt/lists/Packages"\n' > bin/real
# The folder is a mount point while there is a file that says so.
printf '#!/bin/sh\ntest -e "%s/bound"\n' "$1" > bin/mountpoint
chmod +x bin/*
export PATH="$1/bin:$PATH" VBUILD_CHROOT="$1/bin/real"
chroot tree /usr/bin/apt-get clean
touch bound
chroot tree /usr/bin/apt-get clean
chroot tree /usr/bin/apt-get update
rm -r tree/var/lib/apt/lists
OFFLINE=1 chroot tree /usr/bin/apt-get update
cat tree/var/lib/apt/lists/Packages
chroot tree /usr/bin/apt-get install -y clean
"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "test"]).arg(root.path()).arg(CHROOT);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let expected = "real: clean\nreal: update\nreal: update\nfresh\nreal: install\n";
    assert_eq!(stdout, expected, "{stderr}");
}

/// Saves, loses and restores a mount in a private mount namespace.
#[test]
fn mounts_come_back() {
    let root = tempfile::tempdir().unwrap();
    let script = r#"
set -eu
mount -t tmpfs none "$1"
cd "$1"
mkdir helper build 'build/cache dir' build/mnt build/mnt/a build/mnt/proc helper/c other build/mnt/b
echo yes > 'build/cache dir/file'
mount --bind "$1/helper/c" build/mnt/a
save=$(printf '%s' "$2" | sed "s|\"/helper\"|\"$1/helper\"|; s|\"/build\"|\"$1/build\"|")
mount --bind "$1/other" build/mnt/b
mkdir 'build/mnt/x y'
mount --bind "$1/build/cache dir" 'build/mnt/x y'
mounts=$(sh -c "$save" save "$1/build/mnt")
sh -c "$4" unmount "$1/build/mnt" "$1/build/mnt/b" | grep -c Unmount
[ ! -e 'build/mnt/x y/file' ]
sh -c "$3" restore "$mounts"
sh -c "$3" restore "$mounts"
cat 'build/mnt/x y/file'
printf '%s\n' "$mounts" | wc -l
grep -c "$1/build/mnt/" /proc/self/mountinfo
"#;
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "test"])
        .arg(root.path())
        .args([SAVE, RESTORE, UNMOUNT])
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: unshare: {error}");
            return;
        }
    };
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if stderr.contains("unshare failed")
        || stderr.contains("Operation not permitted")
        || stderr.contains("permission denied")
    {
        println!("skipped: {stderr}");
        return;
    }
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(stdout, "2\nyes\n2\n3\n", "{stderr}");
}
