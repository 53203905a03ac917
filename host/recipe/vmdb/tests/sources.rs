//! Which host files a spec may name, and how they are sent: unchanged, and only those of its own
//! directory unless the user has allowed others.

#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use plan::{FileSource, Step, UploadKind};
use vmdb::{Options, prepare};

use common::options;

const HEAD: &str = "steps:
  - mkimg: \"{{ output }}\"
    size: 1G
  - mklabel: gpt
    device: \"{{ output }}\"
  - mkpart: primary
    device: \"{{ output }}\"
    start: 0%
    end: 100%
    tag: root
  - kpartx: \"{{ output }}\"
  - mkfs: ext4
    partition: root
  - mount: root
";

/// A home directory with a project in it, and a secret beside the project.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["home/.ssh", "home/project/tree/sub", "home/project/specs", "work"] {
            fs::create_dir_all(world.at(folder)).unwrap();
        }
        for file in ["home/.ssh/id", "home/project/tree/file", "work/notes"] {
            fs::write(world.at(file), "content").unwrap();
        }
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap().join(path)
    }

    /// The uploads, or the errors, of a spec in one directory that is used from another.
    fn uploads(
        &self,
        spec: &str,
        from: &str,
        tail: &str,
        change: impl FnOnce(&mut Options),
    ) -> Result<BTreeMap<String, UploadKind>, String> {
        fs::write(self.at(spec), format!("{HEAD}{tail}")).unwrap();
        let mut options = options(&self.at(from), self.at(spec).to_str().unwrap());
        options.broad = vec![self.at("home"), "/".into()];
        change(&mut options);
        let prepared = prepare(&options, &mut std::io::empty()).map_err(|e| e.to_string())?;
        let steps = prepared.lowered.plan.stages.into_iter().flat_map(|stage| stage.steps);
        let mut found: BTreeMap<String, UploadKind> = prepared
            .lowered
            .warnings
            .iter()
            .map(|warning| (format!("warning {warning}"), UploadKind::Fifo(0)))
            .collect();
        for step in steps {
            if let Step::Upload(upload) = step {
                let entries = upload.entries.into_iter();
                found.extend(entries.map(|entry| (entry.path.to_string(), entry.kind)));
            }
        }
        Ok(found)
    }

    fn copy_file(&self, src: &str) -> Result<BTreeMap<String, UploadKind>, String> {
        self.uploads("home/project/spec.vmdb", "home/project", &copy_file(src), |_| ())
    }
}

fn copy_file(src: &str) -> String {
    format!("  - copy-file: /x\n    src: {src}\n")
}

fn is_refused(outcome: Result<BTreeMap<String, UploadKind>, String>) -> String {
    let error = outcome.expect_err("it names a file that is not the spec's own");
    assert!(error.contains("--allow-host-path"), "{error}");
    assert!(error.contains("copy-file") || error.contains("step"), "{error}");
    error
}

#[test]
fn a_copied_directory_travels_as_it_is() {
    let world = World::new();
    let tree = |path: &str| world.at("home/project/tree").join(path);
    let links = [
        ("/etc/passwd", "passwd"),
        ("../../.ssh/id", "sub/sly"),
        ("/proc/self/environ", "environment"),
        ("/dev/null", "masked.service"),
        ("..", "up"),
        (".", "sub/self"),
        ("loop", "loop"),
        ("nowhere//x/", "dangling"),
    ];
    for (target, link) in links {
        symlink(target, tree(link)).unwrap();
    }
    mkfifo(&tree("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    let _socket = UnixListener::bind(tree("socket")).unwrap();
    fs::write(world.at("home/project/tree").join(OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
    fs::set_permissions(tree("file"), fs::Permissions::from_mode(0o4755)).unwrap();
    let tail = "  - copy-dir: /opt\n    src: tree\n    umask: 0\n";
    let found = world.uploads("home/project/spec.vmdb", "home/project", tail, |_| ()).unwrap();
    for (target, link) in links {
        assert_eq!(found[link], UploadKind::Symlink(target.into()), "{link}");
    }
    assert!(matches!(found["pipe"], UploadKind::Fifo(0o600)));
    assert!(matches!(found["caf\\xe9"], UploadKind::File { .. }), "{found:?}");
    assert!(matches!(found["file"], UploadKind::File { mode: 0o4755, .. }));
    let warned = found
        .keys()
        .any(|name| name.starts_with("warning") && name.contains("tree/socket` is a socket"));
    assert!(warned, "{found:?}");
}

#[test]
fn files_of_the_specs_own_folder_need_no_word() {
    let world = World::new();
    symlink("tree/file", world.at("home/project/near")).unwrap();
    let absolute = world.at("home/project/tree/file");
    for src in ["tree/file", "./tree/../tree/file", "near", absolute.to_str().unwrap()] {
        let found = world.copy_file(src).unwrap();
        let UploadKind::File { source: FileSource::Host { path, .. }, .. } = &found["x"] else {
            panic!("{found:?}")
        };
        // The engine opens it without following links, so the path must contain none.
        assert_eq!(*path, absolute);
    }
    // A spec in a subdirectory of the working directory.
    let tail = copy_file("tree/file");
    world.uploads("home/project/specs/a.vmdb", "home/project", &tail, |_| ()).unwrap();
}

#[test]
fn other_files_are_read_when_the_user_says_so() {
    let world = World::new();
    symlink("../.ssh/id", world.at("home/project/sly")).unwrap();
    symlink("/etc", world.at("home/project/etc")).unwrap();
    let key = world.at("home/.ssh/id").display().to_string();
    for src in ["sly", "../.ssh/id", &key, "/etc/passwd", "etc/passwd", "../../work/notes"] {
        let error = is_refused(world.copy_file(src));
        assert!(error.contains("lies outside of the recipe's own folder"), "{error}");
        let tail = copy_file(src);
        let allow = |options: &mut Options| {
            options.allowed =
                vec![world.at("home/.ssh"), "/etc/passwd".into(), world.at("work/notes")];
        };
        world.uploads("home/project/spec.vmdb", "home/project", &tail, allow).unwrap();
    }
    // The working directory is the spec's own only if the spec is in it.
    let tail = copy_file("notes");
    is_refused(world.uploads("home/project/spec.vmdb", "work", &tail, |_| ()));
    // A home directory never belongs to a spec alone.
    let tail = copy_file(".ssh/id");
    is_refused(world.uploads("home/project/spec.vmdb", "home", &tail, |_| ()));
    is_refused(world.uploads("home/spec.vmdb", "home", &tail, |_| ()));
}

#[test]
fn every_step_that_reads_the_host_keeps_to_the_rule() {
    let world = World::new();
    let key = world.at("home/.ssh/id").display().to_string();
    let ssh = world.at("home/.ssh").display().to_string();
    fs::create_dir_all(world.at("home/project/play")).unwrap();
    fs::write(world.at("home/project/play/site.yml"), "- hosts: image\n").unwrap();
    symlink(&ssh, world.at("home/project/play/roles")).unwrap();
    let tails = [
        format!("  - copy-dir: /opt\n    src: {ssh}\n"),
        format!("  - ansible: root\n    playbook: {key}\n"),
        "  - ansible: root\n    playbook: play/site.yml\n".to_owned(),
        format!(
            "  - debootstrap: bookworm\n    target: root\n    mirror: http://m.example/debian\n    \
             keyring: {key}\n"
        ),
    ];
    for tail in tails {
        is_refused(world.uploads("home/project/spec.vmdb", "home/project", &tail, |_| ()));
    }
    // A pipe in place of a file is refused, without blocking on open.
    mkfifo(&world.at("home/project/pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    let error = world.copy_file("pipe").unwrap_err();
    assert!(error.contains("pipe` is not a regular file"), "{error}");
    assert!(Path::new(&key).exists());
}
