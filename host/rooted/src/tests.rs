//! Tests each lookup with both methods: by the kernel and by components.

use std::{
    fs,
    io::Read as _,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{
    Descend, Dir, Error, Kind, lookup::LookupMethod, open_file, private, private_existing, walk,
};

/// A tree with links of every kind, and a secret beside it.
struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = Self { folder };
        fs::create_dir_all(tree.at("a/b")).unwrap();
        fs::write(tree.at("a/b/file"), "inside").unwrap();
        fs::write(tree.folder.path().join("secret"), "secret").unwrap();
        for (target, link) in [
            ("b/file", "a/near"),
            ("../a/b", "a/up"),
            ("../../secret", "a/out"),
            ("/dev/null", "a/null"),
            ("nowhere", "a/dangling"),
            (".", "a/self"),
            ("loop2", "a/loop1"),
            ("loop1", "a/loop2"),
        ] {
            symlink(target, tree.at(link)).unwrap();
        }
        symlink(tree.folder.path().join("secret"), tree.at("a/absolute-out")).unwrap();
        symlink(tree.top().join("a/b"), tree.at("a/absolute-in")).unwrap();
        mkfifo(&tree.at("a/fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        tree
    }

    /// Its root, without links from the path of the temporary directory.
    fn top(&self) -> PathBuf {
        fs::canonicalize(self.folder.path()).unwrap().join("top")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("top").join(path)
    }

    fn both(&self) -> [Dir; 2] {
        [LookupMethod::Kernel, LookupMethod::Components]
            .map(|way| Dir::open_by(&self.top(), way).unwrap())
    }
}

fn content(dir: &Dir, path: &str) -> Result<String, Error> {
    let mut text = String::new();
    dir.file(Path::new(path))?.read_to_string(&mut text).unwrap();
    Ok(text)
}

#[test]
fn no_link_is_followed_wherever_it_stands() {
    let tree = Tree::new();
    for dir in tree.both() {
        assert_eq!(content(&dir, "a/b/file").unwrap(), "inside");
        assert_eq!(content(&dir, "./a//b/file").unwrap(), "inside");
        for link in ["a/near", "a/up/file", "a/out", "a/null", "a/absolute-in/file", "a/loop1"] {
            let error = content(&dir, link).unwrap_err();
            assert!(matches!(error, Error::Link(_)), "{link}: {error:?}");
            assert!(error.to_string().contains(link), "{error}");
        }
        for link in ["a/up", "a/self", "a/absolute-in"] {
            let error = dir.directory(Path::new(link)).unwrap_err();
            assert!(matches!(error, Error::Link(_)), "{link}: {error:?}");
        }
        for path in ["..", "a/../a/b/file", "../secret", "/etc/passwd"] {
            let error = content(&dir, path).unwrap_err();
            assert!(matches!(error, Error::Outside { .. }), "{path}: {error:?}");
        }
        assert!(content(&dir, "a/missing").unwrap_err().is_missing());
        assert!(content(&dir, "a/b/file/x").is_err());
    }
}

#[test]
fn links_are_seen_and_read_as_links() {
    let tree = Tree::new();
    for dir in tree.both() {
        for (link, target) in [("a/null", "/dev/null"), ("a/self", "."), ("a/out", "../../secret")]
        {
            assert!(dir.metadata(Path::new(link)).unwrap().is_symlink());
            assert_eq!(dir.read_link(Path::new(link)).unwrap(), target);
        }
        assert!(matches!(dir.read_link(Path::new("a/up/x")), Err(Error::Link(_))));
        assert!(dir.read_link(Path::new("a/b/file")).is_err());
        assert_eq!(dir.names().unwrap(), ["a"]);
    }
}

#[test]
fn only_regular_files_are_opened_and_nothing_waits() {
    let tree = Tree::new();
    let _socket = UnixListener::bind(tree.at("a/socket")).unwrap();
    let (sender, done) = mpsc::channel();
    std::thread::spawn(move || {
        for dir in tree.both() {
            for (path, kind) in
                [("a/fifo", Kind::Fifo), ("a/socket", Kind::Socket), ("a/b", Kind::Directory)]
            {
                let path = Path::new(path);
                for opened in
                    [dir.file(path), dir.open_or_create(path, 0o600), dir.open_to_write(path)]
                {
                    let error = opened.unwrap_err();
                    assert!(
                        matches!(&error, Error::Kind { found, .. } if *found == kind),
                        "{error:?}"
                    );
                }
            }
        }
        sender.send(()).unwrap();
    });
    done.recv_timeout(Duration::from_secs(60)).expect("no open waits for another end");
}

#[test]
fn files_are_made_and_removed_beneath_only() {
    let tree = Tree::new();
    let secret = tree.folder.path().join("secret");
    for (round, dir) in tree.both().into_iter().enumerate() {
        let name = PathBuf::from(format!("a/new{round}"));
        let file = dir.create_new(&name, 0o600).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(dir.create_new(&name, 0o600).is_err());
        fs::write(tree.at(name.to_str().unwrap()), "kept").unwrap();
        drop(dir.open_or_create(&name, 0o600).unwrap());
        assert_eq!(content(&dir, name.to_str().unwrap()).unwrap(), "kept");
        for link in ["a/out", "a/dangling", "a/absolute-out"] {
            let link = Path::new(link);
            assert!(dir.create_new(link, 0o600).is_err());
            assert!(matches!(dir.open_or_create(link, 0o600), Err(Error::Link(_))));
            assert!(matches!(dir.open_to_write(link), Err(Error::Link(_))));
        }
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert!(!tree.at("a/nowhere").exists());
        let nest = PathBuf::from(format!("nest{round}"));
        dir.make_directory(&nest, 0o700).unwrap();
        dir.make_directory(&nest.join("in"), 0o700).unwrap();
        symlink(tree.top().join("a"), tree.top().join(&nest).join("in/link")).unwrap();
        assert!(matches!(dir.remove_tree(Path::new("a/up")), Err(Error::Link(_))));
        dir.remove_tree(&nest).unwrap();
        assert!(!tree.top().join(&nest).exists());
        dir.remove_file(&name).unwrap();
        dir.remove_file(&name).unwrap();
        assert!(tree.at("a/b/file").exists());
    }
}

#[test]
fn links_that_stay_beneath_are_resolved_and_others_refused() {
    let tree = Tree::new();
    symlink("a/up/../near", tree.at("through")).unwrap();
    symlink("../top/a/near", tree.at("out-and-in")).unwrap();
    for dir in tree.both() {
        for path in [
            "a/b/file",
            "a/near",
            "a/up/file",
            "a/self/self/near",
            "a/absolute-in/file",
            "through",
            "a/../a/near",
        ] {
            let resolved = dir.resolve(Path::new(path)).unwrap();
            assert_eq!(resolved, Path::new("a/b/file"), "{path}");
            assert_eq!(content(&dir, resolved.to_str().unwrap()).unwrap(), "inside");
        }
        let absolute = tree.top().join("a/near");
        assert_eq!(dir.resolve(&absolute).unwrap(), Path::new("a/b/file"));
        assert_eq!(dir.resolve(Path::new("a/self")).unwrap(), Path::new("a"));
        assert_eq!(dir.resolve(Path::new(".")).unwrap(), Path::new(""));
        for path in ["a/out", "a/null", "a/absolute-out", "..", "/etc/passwd", "out-and-in"] {
            let error = dir.resolve(Path::new(path)).unwrap_err();
            assert!(matches!(error, Error::Outside { .. }), "{path}: {error:?}");
        }
        for path in ["a/loop1", "a/dangling", "a/near/x", "a/missing"] {
            let error = dir.resolve(Path::new(path)).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{path}: {error:?}");
        }
    }
}

#[test]
fn an_absolute_path_is_opened_when_it_holds_no_link() {
    let tree = Tree::new();
    assert!(open_file(&tree.top().join("a/b/file")).is_ok());
    for link in ["a/near", "a/up/file", "a/absolute-out"] {
        assert!(matches!(open_file(&tree.top().join(link)), Err(Error::Link(_))), "{link}");
    }
    assert!(matches!(open_file(Path::new("/dev/null")), Err(Error::Kind { .. })));
}

#[test]
fn a_walk_sees_everything_as_it_is() {
    let tree = Tree::new();
    let _socket = UnixListener::bind(tree.at("a/socket")).unwrap();
    for dir in tree.both() {
        let mut seen = Vec::new();
        walk::<Error>(&dir, &mut |entry| {
            let target = match entry.kind {
                Kind::Link => format!(" -> {}", entry.target()?.display()),
                _ => String::new(),
            };
            seen.push(format!("{} {}{target}", entry.kind, entry.path.display()));
            Ok(if entry.path == Path::new("a/b") { Descend::No } else { Descend::Yes })
        })
        .unwrap();
        assert_eq!(seen[0], "directory a");
        assert!(seen.contains(&"symbolic link a/null -> /dev/null".to_owned()), "{seen:#?}");
        assert!(seen.contains(&"named pipe a/fifo".to_owned()), "{seen:#?}");
        assert!(seen.contains(&"socket a/socket".to_owned()), "{seen:#?}");
        assert!(!seen.iter().any(|line| line.contains("a/b/file")), "{seen:#?}");
        let sorted = seen.iter().map(|line| line.split(' ').next_back().unwrap());
        assert_eq!(sorted.count(), 14);
    }
}

#[test]
fn a_tree_without_end_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut deep = folder.path().to_owned();
    for _ in 0..crate::DEPTH_MAX + 2 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    let top = Dir::open(folder.path()).unwrap();
    let error = walk::<Error>(&top, &mut |_| Ok(Descend::Yes)).unwrap_err();
    assert!(matches!(error, Error::TooDeep(_)), "{error:?}");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_private_directory_is_made_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("x/own");
    assert!(private_existing(&own).unwrap_err().is_missing());
    private(&own).unwrap();
    assert_eq!((mode(&own), mode(&folder.path().join("x"))), (0o700, 0o700));
    for readable in [0o755, 0o750, 0o770, 0o2755] {
        set_mode(&own, readable);
        private(&own).unwrap();
        assert_eq!(mode(&own) & 0o777, 0o700, "{readable:o}");
    }
    set_mode(&own, 0o777);
    let error = private(&own).unwrap_err();
    assert!(matches!(error, Error::Writable { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("chmod 700"), "{error:?}");
    fs::remove_dir(&own).unwrap();
    fs::write(&own, "").unwrap();
    assert!(private(&own).is_err());
    // The user's own link to another place is followed.
    fs::remove_file(&own).unwrap();
    fs::create_dir(folder.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", &own).unwrap();
    let found = private(&own).unwrap();
    assert!(found.path().ends_with("elsewhere"));
}

#[test]
fn in_a_shared_directory_a_group_counts_as_others() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own");
    set_mode(folder.path(), 0o777);
    let error = private(&own).unwrap_err();
    assert!(matches!(error, Error::NotSticky { .. }), "{error:?}");
    set_mode(folder.path(), 0o1777);
    private(&own).unwrap();
    set_mode(&own, 0o755);
    private(&own).unwrap();
    set_mode(&own, 0o770);
    assert!(matches!(private(&own), Err(Error::Writable { .. })));
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can make files of another user");
        return;
    }
    let other = nix::unistd::Uid::from_raw(65_534);
    let folder = tempfile::tempdir().unwrap();
    let (own, link) = (folder.path().join("own"), folder.path().join("link"));
    fs::create_dir(&own).unwrap();
    nix::unistd::chown(&own, Some(other), None).unwrap();
    let error = private(&own).unwrap_err();
    assert!(matches!(error, Error::Owner { owner: 65_534, user: 0, .. }), "{error:?}");
    assert_eq!(mode(&own) & 0o777, 0o755, "it is left as it was");
    // A link of another user, to a directory of the user.
    fs::create_dir(folder.path().join("mine")).unwrap();
    symlink("mine", &link).unwrap();
    let flag = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    nix::unistd::fchownat(nix::fcntl::AT_FDCWD, &link, Some(other), None, flag).unwrap();
    assert!(matches!(private(&link), Err(Error::Owner { .. })));
    assert!(private(&link).unwrap_err().is_distrust());
}
