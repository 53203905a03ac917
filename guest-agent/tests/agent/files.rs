//! Files and trees over a pair of sockets.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::client::{Client, Outcome};
use wire::{FileKind, FileOperation, Reply, Request};

fn put(client: &Client, request: &Request, bytes: &[u8]) -> Outcome {
    let mut stream = client.open(request);
    stream.put(bytes);
    stream.end();
    stream.finish()
}

fn put_file(root: &Path, path: &str) -> Request {
    Request::PutFile { root: root.to_str().unwrap().into(), path: path.into(), mode: 0o4750 }
}

fn get_file(root: &Path, path: &str, max_bytes: u64) -> Request {
    Request::GetFile { root: root.to_str().unwrap().into(), path: path.into(), max_bytes }
}

fn put_tar(root: &Path, path: &str) -> Request {
    Request::PutTar { root: root.to_str().unwrap().into(), path: path.into() }
}

fn get_tar(root: &Path, exclude: &[&str]) -> Request {
    Request::GetTar {
        root: root.to_str().unwrap().into(),
        path: "/".into(),
        exclude: exclude.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_file_goes_in_and_comes_out() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ 3).collect();
    fs::write(folder.path().join("file"), "old").unwrap();
    let reply = put(&client, &put_file(folder.path(), "/file"), &bytes).into_result();
    assert_eq!(reply, Ok(Reply::Done {}));
    let path = folder.path().join("file");
    assert!(fs::read(&path).unwrap() == bytes);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o4750);
    let outcome = client.open(&get_file(folder.path(), "file", 3_000_000)).finish();
    assert!(outcome.main == bytes);
    assert_eq!(outcome.into_result(), Ok(Reply::Done {}));
    let failed = client.call(&get_file(folder.path(), "file", 2_999_999)).unwrap_err();
    assert_eq!(failed.reason, "it is larger than 2999999 bytes");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_link_cannot_lead_a_file_out_of_its_root() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&outside, root.join("link")).unwrap();
    symlink("../../outside/secret", root.join("etc/secret")).unwrap();
    assert!(put(&client, &put_file(&root, "link/new"), b"x").into_result().is_err());
    assert!(client.call(&get_file(&root, "etc/secret", 100)).is_err());
    // The link itself is replaced, and not what it says.
    put(&client, &put_file(&root, "etc/secret"), b"mine").into_result().unwrap();
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(fs::read(root.join("etc/secret")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn small_operations_do_what_they_say() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    let root = folder.path().to_str().unwrap().to_owned();
    let call = |operation| client.call(&Request::File(operation)).unwrap();
    let place = |path: &str| (root.clone(), path.to_owned());
    let (r, path) = place("a/b/c");
    call(FileOperation::MakeDirectory { root: r, path, mode: 0o1777 });
    let (r, path) = place("a/link");
    call(FileOperation::Symlink { root: r, path, target: "b/c".into() });
    fs::write(folder.path().join("a/file"), "12345").unwrap();
    let (r, path) = place("a");
    let Reply::Entries { entries } = call(FileOperation::List { root: r, path }) else {
        panic!("no entries");
    };
    let short: Vec<_> = entries.iter().map(|(name, stat)| (name.as_str(), stat.kind)).collect();
    let kinds = [FileKind::Directory, FileKind::File, FileKind::Symlink];
    assert_eq!(short, [("b", kinds[0]), ("file", kinds[1]), ("link", kinds[2])]);
    assert_eq!(entries[2].1.link.as_deref(), Some("b/c"));
    let (r, path) = place("a/link/none");
    assert_eq!(call(FileOperation::Stat { root: r, path }), Reply::Stat { stat: None });
    assert_eq!(fs::metadata(folder.path().join("a/b/c")).unwrap().mode() & 0o7777, 0o1777);
    let (r, from) = place("a/file");
    call(FileOperation::Rename { root: r, from, to: "a/b/renamed".into() });
    let (r, path) = place("a");
    call(FileOperation::TruncateAll { root: r, path });
    assert_eq!(fs::metadata(folder.path().join("a/b/renamed")).unwrap().len(), 0);
    let (r, path) = place("a");
    call(FileOperation::Remove { root: r, path, content_only: true });
    assert_eq!(fs::read_dir(folder.path().join("a")).unwrap().count(), 0);
    for _ in 0..2 {
        let (r, path) = place("a");
        let remove = FileOperation::Remove { root: r, path, content_only: false };
        assert_eq!(call(remove), Reply::Done {});
    }
    assert!(!folder.path().join("a").exists());
}

#[test]
fn usage_agrees_with_du() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("d/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(folder.path().join("d/file"), folder.path().join("d/again")).unwrap();
    fs::File::create(folder.path().join("sparse")).unwrap().set_len(1 << 30).unwrap();
    let root = folder.path().to_str().unwrap().to_owned();
    let usage = FileOperation::Usage { root, path: "/".into() };
    let Ok(Reply::Usage { kib }) = client.call(&Request::File(usage)) else {
        panic!("no usage");
    };
    let du = Command::new("du").args(["-x", "-k", "-s"]).arg(folder.path()).output().unwrap();
    let text = String::from_utf8(du.stdout).unwrap();
    assert_eq!(kib.to_string(), text.split('\t').next().unwrap());
}

/// A tree with what is hard about trees, as far as no privileges are needed.
fn hard_tree(root: &Path) {
    let long = "n".repeat(120);
    fs::create_dir_all(root.join("d").join(&long)).unwrap();
    fs::write(root.join("d").join(&long).join("file"), "content").unwrap();
    fs::hard_link(root.join("d").join(&long).join("file"), root.join("hard")).unwrap();
    symlink("x".repeat(150), root.join("d/link")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 5_000_000).unwrap();
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(root.join("d"), fs::Permissions::from_mode(0o2750)).unwrap();
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    fs::File::open(root.join("d")).unwrap().set_times(time).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
}

#[test]
fn a_tree_survives_the_way_out_and_in() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir(&from).unwrap();
    hard_tree(&from);
    let outcome = client.open(&get_tar(&from, &[])).finish();
    let archive = outcome.main.clone();
    outcome.into_result().unwrap();
    put(&client, &put_tar(folder.path(), "/to"), &archive).into_result().unwrap();
    let again = client.open(&get_tar(&to, &[])).finish();
    assert!(again.main == archive, "packing is the same for the same tree");
    let (hard, sparse) = (to.join("hard"), to.join("sparse"));
    assert_eq!(fs::metadata(hard).unwrap().nlink(), 2);
    assert!(fs::metadata(&sparse).unwrap().blocks() * 512 < 100_000, "holes stay holes");
    assert_eq!(fs::metadata(to.join("d")).unwrap().mtime(), 0);
    assert_eq!(fs::metadata(to.join("empty")).unwrap().mode() & 0o7777, 0o4711);
    // Once more over what is there: merged and replaced.
    put(&client, &put_tar(folder.path(), "/to"), &archive).into_result().unwrap();
    assert!(client.open(&get_tar(&to, &[])).finish().main == archive);
}

#[test]
fn tar_reads_what_we_write_and_we_read_what_tar_writes() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    let root = folder.path();
    for name in ["ours", "theirs", "from"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    hard_tree(&root.join("from"));
    let run = |command: &str, arguments: &[&str]| {
        let status = Command::new(command).current_dir(root).args(arguments).status().unwrap();
        assert!(status.success(), "{command} {arguments:?}");
    };
    // The archives of GNU tar hold whole seconds, those of POSIX parts of them.
    for (format, time) in [("gnu", "@1000"), ("posix", "@1000.123456789")] {
        run("find", &["from", "-depth", "-exec", "touch", "-h", "-d", time, "{}", "+"]);
        let ours = client.open(&get_tar(&root.join("from"), &[])).finish().main;
        fs::write(root.join("ours.tar"), &ours).unwrap();
        run("tar", &["-xpf", "ours.tar", "-C", "ours"]);
        run("tar", &["-c", "--format", format, "-f", "theirs.tar", "-C", "from", "."]);
        let theirs = fs::read(root.join("theirs.tar")).unwrap();
        put(&client, &put_tar(root, "theirs"), &theirs).into_result().unwrap();
        let packed = |name: &str| client.open(&get_tar(&root.join(name), &[])).finish().main;
        assert!(packed("theirs") == ours, "{format}");
        assert!(packed("ours") == ours);
    }
}

#[test]
fn excludes_leave_out_trees_or_content() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    for name in ["tmp/sub", "var/cache/apt", "keep"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("file"), "").unwrap();
    }
    let archive = client.open(&get_tar(folder.path(), &["tmp/*", "./var/cache"])).finish().main;
    let mut listing = Command::new("tar")
        .arg("-t")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut listing.stdin.take().unwrap(), &archive).unwrap();
    let output = listing.wait_with_output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert_eq!(names, "./\n./keep/\n./keep/file\n./tmp/\n./var/\n");
}

#[test]
fn a_hostile_archive_stays_inside() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&outside).unwrap();
    let archive = |members: &[(&str, tar::EntryType, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, link) in members {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            let own = fs::metadata(&root).unwrap();
            header.set_uid(own.uid().into());
            header.set_gid(own.gid().into());
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_entry_type(*kind);
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, &[][..]).unwrap();
        }
        builder.into_inner().unwrap()
    };
    use tar::EntryType::{Link, Regular, Symlink};
    let dots = archive(&[("a/../../outside/x", Regular, "")]);
    let failed = put(&client, &put_tar(&root, "/"), &dots).into_result().unwrap_err();
    assert_eq!(failed.reason, "member 1 (`a/../../outside/x`): a path that leads out of the tree");
    let through = archive(&[("up", Symlink, "../outside"), ("up/x", Regular, "")]);
    put(&client, &put_tar(&root, "/"), &through).into_result().unwrap_err();
    let link = archive(&[("hard", Link, "../outside/../../etc/passwd")]);
    put(&client, &put_tar(&root, "/"), &link).into_result().unwrap_err();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let cut = &through[..700];
    let failed = put(&client, &put_tar(&root, "/"), cut).into_result().unwrap_err();
    assert!(failed.reason.contains("ends within"), "{failed}");
}

#[test]
fn a_directory_that_is_a_link_is_merged_into() {
    let (client, folder) = (Client::connect(), tempfile::tempdir().unwrap());
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::create_dir_all(from.join("lib")).unwrap();
    fs::write(from.join("lib/so"), "x").unwrap();
    fs::create_dir_all(to.join("usr/lib")).unwrap();
    symlink("usr/lib", to.join("lib")).unwrap();
    let archive = client.open(&get_tar(&from, &[])).finish().main;
    put(&client, &put_tar(&to, "/"), &archive).into_result().unwrap();
    assert_eq!(fs::read(to.join("usr/lib/so")).unwrap(), b"x");
    assert!(fs::symlink_metadata(to.join("lib")).unwrap().is_symlink());
}
