//! Compares tree formats with tar, gzip and zstd, and tests streams that fail.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Command,
};

use crate::common::{names, noise, text, tool, verified};
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
            verified(kind.suffix(), &file);
        }
    }
    tool(&["gzip", "-t", "-S", "tgz", text(&targets[1].path)]);
    tool(&["zstd", "-tq", text(&targets[2].path)]);
    assert!(fs::read(&targets[0].path).unwrap() == tar);
}

/// A stream that fails after some bytes, as after the loss of a guest.
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

/// The members of an archive by name.
fn members(path: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
    let read = |entry: io::Result<tar::Entry<'_, fs::File>>| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).unwrap();
        (name, data)
    };
    archive.entries().unwrap().map(read).collect()
}

fn sha256(data: &[u8]) -> String {
    use sha2::Digest;
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(data)))
}

#[test]
fn container_images_hold_together() {
    let dir = tempfile::tempdir().unwrap();
    let (_, tar) = archive(dir.path());
    let mut targets = Vec::new();
    for (name, compress) in [("docker", true), ("oci", false)] {
        let mut target = target(name, dir.path());
        target.container = Some("me/image:1".to_owned());
        target.architecture = "amd64".to_owned();
        target.identity = output::Identity::fixed(b"seed", 1_000_000_000);
        target.compress = compress;
        targets.push(target);
    }
    let pending = write_trees(&mut tar.as_slice(), &targets, &Silent).unwrap();
    commit(pending, Existing::Replace).unwrap();
    for target in &targets {
        let members = members(&target.path);
        let json =
            |name: &str| -> serde_json::Value { serde_json::from_slice(&members[name]).unwrap() };
        let blob = |descriptor: &serde_json::Value| -> &Vec<u8> {
            let digest = descriptor["digest"].as_str().unwrap();
            let data = &members[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(sha256(data), digest);
            assert_eq!(descriptor["size"], data.len());
            data
        };
        assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
        let index = json("index.json");
        let entry = &index["manifests"][0];
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/me/image:1");
        let manifest: serde_json::Value = serde_json::from_slice(blob(entry)).unwrap();
        let config: serde_json::Value = serde_json::from_slice(blob(&manifest["config"])).unwrap();
        assert_eq!(config["created"], "2001-09-09T01:46:40Z");
        assert_eq!(config["architecture"], "amd64");
        assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&tar));
        let layer = blob(&manifest["layers"][0]);
        if target.compress {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(layer.as_slice()).read_to_end(&mut plain).unwrap();
            assert!(plain == tar);
            let legacy = json("manifest.json");
            assert_eq!(legacy[0]["RepoTags"][0], "me/image:1");
            assert!(members.contains_key(legacy[0]["Layers"][0].as_str().unwrap()));
            assert!(members.contains_key(legacy[0]["Config"].as_str().unwrap()));
        } else {
            assert!(*layer == tar);
            assert!(!members.contains_key("manifest.json"));
        }
    }
}

#[test]
fn a_docker_image_needs_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let complaints = output::check(&[target("docker", dir.path())], false).unwrap_err();
    assert_eq!(
        complaints[0].to_string(),
        "docker: a target was not specified, use ‘--docker-target’"
    );
    assert!(output::check(&[target("oci", dir.path())], false).is_ok());
}

/// Adds a member to the archive below.
fn member(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, data: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o4750);
    header.set_uid(1000);
    header.set_gid(70_000);
    header.set_mtime(1_000_000_000);
    header.set_size(data.len() as u64);
    if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
        header.set_device_major(8).unwrap();
        header.set_device_minor(17).unwrap();
    }
    builder.append_data(&mut header, path, data).unwrap();
}

/// An archive with many files in one directory, attributes, devices, implied directories, and a
/// file replaced by a later one.
fn unusual_archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for n in 0..3000 {
        let content = format!("content {n} ").repeat(n % 50);
        let name = format!("many/{n:05}-{}", "x".repeat(n % 40));
        member(&mut builder, &name, tar::EntryType::Regular, content.as_bytes());
    }
    let records = [
        ("SCHILY.xattr.user.note", b"text".as_slice()),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
    ];
    builder.append_pax_extensions(records).unwrap();
    member(&mut builder, "a/b/ping", tar::EntryType::Regular, b"a program");
    builder.append_pax_extensions(records).unwrap();
    member(&mut builder, "a/dir", tar::EntryType::Directory, b"");
    member(&mut builder, "null", tar::EntryType::Char, b"");
    member(&mut builder, "disk", tar::EntryType::Block, b"");
    member(&mut builder, "pipe", tar::EntryType::Fifo, b"");
    member(&mut builder, "replaced", tar::EntryType::Regular, &noise(5, 400_000));
    member(&mut builder, "replaced", tar::EntryType::Regular, &noise(6, 400_000));
    let mut zeros = vec![0; 1_000_000];
    zeros[700_000] = 1;
    member(&mut builder, "zeros", tar::EntryType::Regular, &zeros);
    builder.into_inner().unwrap()
}

/// Records the reported losses.
#[derive(Default)]
struct Lost(std::sync::Mutex<Vec<String>>);

impl output::Progress for Lost {
    fn event(&self, event: output::Event<'_>) {
        if let output::Event::Lost { format, what, count, first, .. } = event {
            self.0.lock().unwrap().push(format!("{format}: {what}: {count}, {first}"));
        }
    }
}

#[test]
fn what_a_format_cannot_hold_is_told_once_with_a_count_and_the_first_path() {
    let acl = ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0".as_slice());
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["a/one", "a/two"] {
        builder.append_pax_extensions([acl]).unwrap();
        member(&mut builder, name, tar::EntryType::Regular, b"x");
    }
    let other = ("SCHILY.xattr.system.other", b"1".as_slice());
    builder.append_pax_extensions([("mtime", b"-1.5".as_slice()), other]).unwrap();
    member(&mut builder, "old", tar::EntryType::Regular, b"x");
    builder.append_pax_extensions([("mtime", b"4294967296".as_slice())]).unwrap();
    member(&mut builder, "new", tar::EntryType::Regular, b"x");
    member(&mut builder, "a/.wh.kept", tar::EntryType::Regular, b"x");
    member(&mut builder, "a/.wh.d/x", tar::EntryType::Regular, b"x");
    let tar = builder.into_inner().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let lost = |name: &str| {
        let mut target = target(name, dir.path());
        target.container = name.starts_with("docker").then(|| "a:1".to_owned());
        let lost = Lost::default();
        write_trees(&mut tar.as_slice(), &[target], &lost).unwrap();
        lost.0.into_inner().unwrap()
    };
    assert_eq!(
        lost("squashfs"),
        [
            "squashfs: POSIX ACLs, and files have their plain modes there: 2, a/one",
            "squashfs: extended attributes outside of user, trusted and security: 1, old",
            "squashfs: times before 1970 and after 2106, and files have the nearest there: 2, old",
        ]
    );
    for name in ["docker", "oci"] {
        let expected = format!(
            "{name}: files called `.wh.…`, which engines take for marks that remove other files: 2, \
             a/.wh.kept"
        );
        assert_eq!(lost(name), [expected]);
    }
    assert_eq!(lost("tgz"), Vec::<String>::new());
}

#[test]
fn squashfs_unpacks_to_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, tar) = archive(dir.path());
    for compress in [true, false] {
        let mut target = target("squashfs", dir.path());
        target.compress = compress;
        target.identity = output::Identity::fixed(b"", 1_000_000_000);
        let write = || {
            let targets = std::slice::from_ref(&target);
            let pending = write_trees(&mut tar.as_slice(), targets, &Silent).unwrap();
            commit(pending, Existing::Replace).unwrap();
            fs::read(&target.path).unwrap()
        };
        let image = write();
        assert!(write() == image, "the same input gives the same image");
        let back = dir.path().join("back");
        let argv = ["unsquashfs", "-no-progress", "-d", text(&back), text(&target.path)];
        if tool(&argv).is_none() {
            return;
        }
        tool(&["diff", "-r", "--no-dereference", text(&tree), text(&back)]);
        let inode = |name: &str| {
            std::os::unix::fs::MetadataExt::ino(&fs::metadata(back.join(name)).unwrap())
        };
        assert_eq!(inode("words"), inode("etc/words"));
        fs::remove_dir_all(&back).unwrap();
    }
}

#[test]
fn squashfs_lists_what_is_unusual() {
    let dir = tempfile::tempdir().unwrap();
    let target = target("squashfs", dir.path());
    let targets = std::slice::from_ref(&target);
    let tar = unusual_archive();
    commit(write_trees(&mut tar.as_slice(), targets, &Silent).unwrap(), Existing::Replace).unwrap();
    let Some(list) = tool(&["unsquashfs", "-llnumeric", text(&target.path)]) else { return };
    assert_eq!(list.matches("/many/").count(), 3000);
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = list.lines().map(squeeze).collect();
    for line in [
        "-rwsr-x--- 1000/70000 9 2001-09-09 01:46 squashfs-root/a/b/ping",
        "drwsr-x--- 1000/70000 3 2001-09-09 01:46 squashfs-root/a/dir",
        "crwsr-x--- 1000/70000 8, 17 2001-09-09 01:46 squashfs-root/null",
        "brwsr-x--- 1000/70000 8, 17 2001-09-09 01:46 squashfs-root/disk",
        "prwsr-x--- 1000/70000 0 2001-09-09 01:46 squashfs-root/pipe",
        "drwxr-xr-x 0/0 27 1970-01-01 00:00 squashfs-root/a/b",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line}\n{:?}", &lines[..20]);
    }
    let cat = |name: &str| {
        let out = Command::new("unsquashfs").args(["-cat", text(&target.path), name]).output();
        out.unwrap().stdout
    };
    assert!(cat("replaced") == noise(6, 400_000));
    assert_eq!(cat("many/00049-xxxxxxxxx").len(), "content 49 ".len() * 49);
    let zeros = cat("zeros");
    assert_eq!((zeros.len(), zeros[700_000]), (1_000_000, 1));
    assert!(fs::metadata(&target.path).unwrap().len() < 1_000_000);
}
