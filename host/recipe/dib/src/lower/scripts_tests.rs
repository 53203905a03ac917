//! The shell scripts of this crate, run for real where that is possible.

use std::{fs, process::Command};

const SAVE: &str = include_str!("../../scripts/save-mounts.sh");
const RESTORE: &str = include_str!("../../scripts/restore-mounts.sh");
const UNMOUNT: &str = include_str!("../../scripts/unmount-below.sh");
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

/// Saves, loses and restores a mount in a mount namespace of its own.
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
