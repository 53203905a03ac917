//! Tree formats against tar, gzip and zstd, and streams that break.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{names, noise, text, tool};
use output::{Checksum, Existing, Origin, Silent, Target, commit, format, write_trees};

/// A tree on disk and its archive, made by the reference tar.
fn archive(dir: &Path) -> (PathBuf, Vec<u8>) {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("etc/deep/er")).unwrap();
    fs::write(tree.join("etc/hostname"), "image\n").unwrap();
    fs::write(tree.join("etc/deep/er/noise"), noise(7, 3_000_000)).unwrap();
    fs::write(tree.join("words"), "words and words\n".repeat(200_000)).unwrap();
    fs::hard_link(tree.join("words"), tree.join("etc/words")).unwrap();
    std::os::unix::fs::symlink("../words", tree.join("etc/link")).unwrap();
    fs::write(tree.join("x".repeat(200)), "a long name").unwrap();
    let tar = Command::new("tar")
        .args(["--format=pax", "--xattrs", "--sort=name", "-C", text(&tree), "-cf", "-", "."])
        .output()
        .unwrap();
    assert!(tar.status.success());
    (tree, tar.stdout)
}

fn target(name: &str, dir: &Path) -> Target {
    let format = format(name).unwrap();
    Target::new(format, dir.join(format!("image.{}", format.suffix)))
}

#[test]
fn archives_unpack_to_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, tar) = archive(dir.path());
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let targets = ["tar", "tgz", "tar.zst"].map(|name| {
        let mut target = target(name, &out);
        target.checksums = vec![Checksum::Md5, Checksum::Sha256];
        target
    });
    let pending = write_trees(&mut tar.as_slice(), &targets, &Silent).unwrap();
    assert_eq!(names(&out), Vec::<String>::new());
    commit(pending, Existing::Replace).unwrap();
    for target in &targets {
        let back = dir.path().join("back");
        fs::create_dir(&back).unwrap();
        tool(&["tar", "-C", text(&back), "-xf", text(&target.path)]);
        tool(&["diff", "-r", "--no-dereference", text(&tree), text(&back)]);
        fs::remove_dir_all(&back).unwrap();
        for kind in &target.checksums {
            let file = kind.file_for(&target.path);
            tool(&[&format!("{}sum", kind.suffix()), "-c", "--quiet", text(&file)]);
        }
    }
    tool(&["gzip", "-t", "-S", "tgz", text(&targets[1].path)]);
    tool(&["zstd", "-tq", text(&targets[2].path)]);
    assert!(fs::read(&targets[0].path).unwrap() == tar);
}

/// Ends with an error after some bytes, as a lost guest does.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buf)? {
            0 => Err(io::Error::other("the virtual machine is gone")),
            count => Ok(count),
        }
    }
}

#[test]
fn broken_and_short_streams_leave_nothing_and_keep_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let (_, tar) = archive(dir.path());
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let trees = output::FORMATS.iter().filter(|f| f.origin == Origin::Tree);
    let mut targets: Vec<Target> = trees.map(|f| target(f.name, &out)).collect();
    for target in &mut targets {
        target.container = Some("name:tag".to_owned());
        fs::write(&target.path, "old").unwrap();
    }
    let before = names(&out);
    for cut in [0, 100, 512, 40_000, tar.len() / 2, tar.len() / 512 * 512 - 1024 * 10] {
        let error = write_trees(&mut Broken(&tar[..cut]), &targets, &Silent).unwrap_err();
        assert_eq!(error.to_string(), "failed to read the tree from the guest");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "the virtual machine is gone");

        let error = write_trees(&mut &tar[..cut], &targets, &Silent).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("the tree from the guest"), "{cut}: {message}");
        assert_eq!(names(&out), before);
    }
    for target in &targets {
        assert_eq!(fs::read(&target.path).unwrap(), b"old");
    }
}
