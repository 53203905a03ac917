//! The build directory: one directory for all files that a build has on the host while it runs.
//!
//! ```text
//! $TMPDIR/vbuild-UID/vbuild-run-PID-N     TMPDIR is set; vbuild-UID is the user's alone
//! CACHE/run/vbuild-run-PID-N              it is not
//! ```
//!
//! The directory is locked for as long as its owner lives. A directory whose lock can be taken
//! belongs to a build that died; the next build removes it.
//!
//! Other users may write to `$TMPDIR`. Files that they create there under these names are ignored:
//! a directory counts only if it belongs to the user, and nothing is opened through a link.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::geteuid,
};
use rooted::{Dir, Error};

use crate::{
    error::{CommandError, Kind},
    settings::Settings,
};

const PREFIX: &str = "vbuild-run-";
const LOCK: &str = "lock";
/// The name of the file that marks a directory that the user wanted to keep.
const KEPT: &str = "kept";
/// Maximum number of attempts to find an unused name.
const NAMES_TRIED: u32 = 1000;
/// The mode of directories, which only the user can access.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The directory of a build. It is removed when dropped, unless it is kept.
#[derive(Debug)]
pub struct BuildDir {
    path: PathBuf,
    base: Dir,
    keep: bool,
    _lock: Flock<File>,
}

impl BuildDir {
    /// Creates the directory of a run.
    ///
    /// # Errors
    /// Fails if the directory cannot be created.
    pub fn of(settings: &Settings) -> Result<Self, CommandError> {
        Self::new(&settings.cache_dir).map_err(|error| {
            let hint = error.hint();
            CommandError::new(Kind::Host, error)
                .context("cannot make a build directory")
                .maybe_hint(hint)
                .hint("set TMPDIR or --cache-dir to a directory that you can write to")
        })
    }

    /// Creates a directory below `$TMPDIR`, or below `cache_dir` if that is not set, and removes
    /// those of builds that died.
    ///
    /// # Errors
    /// Fails if the directory cannot be created, or would not be private to the user.
    fn new(cache_dir: &Path) -> Result<Self, Error> {
        let shared = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        Self::below(shared.as_deref(), cache_dir)
    }

    fn below(shared: Option<&Path>, cache_dir: &Path) -> Result<Self, Error> {
        let base = match shared {
            Some(shared) => {
                fs::create_dir_all(shared).map_err(|source| failed("make", shared, source))?;
                let shared = Dir::open(shared)?;
                // Earlier versions created build directories here.
                remove_dead(&shared);
                own(&shared)?
            }
            None => rooted::private(&cache_dir.join("run"))?,
        };
        remove_dead(&base);
        for attempt in 0..NAMES_TRIED {
            let name = PathBuf::from(format!("{PREFIX}{}-{attempt}", std::process::id()));
            match base.make_directory(&name, DIRECTORY_MODE) {
                Ok(()) => {
                    let lock = base.directory(&name)?.create_new(Path::new(LOCK), FILE_MODE)?;
                    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
                        .map_err(|(_, error)| failed("lock", &name, error.into()))?;
                    let path = base.path().join(&name);
                    return Ok(Self { path, base, keep: false, _lock: lock });
                }
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(failed("make", &base.path().join(PREFIX), io::ErrorKind::AlreadyExists.into()))
    }

    /// The path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps the directory when this value is dropped.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    fn name(&self) -> &Path {
        Path::new(self.path.file_name().unwrap_or(OsStr::new("")))
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        if self.keep {
            let kept = self.name().join(KEPT);
            let _ = self.base.open_or_create(&kept, FILE_MODE);
        } else {
            // The next build removes what cannot be removed now.
            let _ = self.base.remove_tree(self.name());
        }
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

/// Opens or creates the user's own directory in a shared one: `vbuild-UID`, or that name with a
/// random end if another user has taken it.
fn own(shared: &Dir) -> Result<Dir, Error> {
    let name = format!("vbuild-{}", geteuid());
    let with_end = format!("{name}-");
    let candidates = shared.names()?.into_iter().filter(|found| {
        found.to_str().is_some_and(|found| found == name || found.starts_with(&with_end))
    });
    let existing = |found: OsString| rooted::private_existing(&shared.path().join(found)).ok();
    if let Some(directory) = candidates.filter_map(existing).next() {
        return Ok(directory);
    }
    match rooted::private(&shared.path().join(&name)) {
        Ok(directory) => Ok(directory),
        Err(error @ Error::NotSticky { .. }) => Err(error),
        Err(error) if shared.metadata(Path::new(&name)).is_err() => Err(error),
        Err(_) => {
            let end = uuid::Uuid::new_v4().simple();
            rooted::private(&shared.path().join(format!("{with_end}{end}")))
        }
    }
}

/// Removes the directories of builds that died. A directory that was created but not yet locked by
/// its living owner is recognised by its process id.
fn remove_dead(base: &Dir) {
    for name in base.names().unwrap_or_default() {
        let Some(owner) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let name = Path::new(&name);
        let is_own =
            |metadata: &fs::Metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw();
        if !base.metadata(name).as_ref().is_ok_and(is_own) {
            continue;
        }
        let Ok(directory) = base.directory(name) else { continue };
        let has = |file: &str| directory.metadata(Path::new(file)).is_ok();
        let pid = owner.split('-').next().unwrap_or("");
        let alive = pid == std::process::id().to_string()
            || (Path::new("/proc").join(pid).exists() && !has(LOCK));
        if alive || has(KEPT) {
            continue;
        }
        // The lock is held until the directory is gone, so that no other process begins to use it.
        let lock = match directory.open_to_write(Path::new(LOCK)) {
            Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Some(lock),
                Err(_) => continue,
            },
            Err(error) if error.is_missing() => None,
            Err(_) => continue,
        };
        let _ = base.remove_tree(name);
        drop(lock);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    struct Ground {
        folder: tempfile::TempDir,
    }

    impl Ground {
        /// A folder like /tmp, and beside it a home.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ground = Self { folder };
            fs::create_dir(ground.tmp()).unwrap();
            fs::set_permissions(ground.tmp(), fs::Permissions::from_mode(0o1777)).unwrap();
            fs::create_dir(ground.home()).unwrap();
            ground
        }

        fn tmp(&self) -> PathBuf {
            fs::canonicalize(self.folder.path()).unwrap().join("tmp")
        }

        fn home(&self) -> PathBuf {
            fs::canonicalize(self.folder.path()).unwrap().join("home")
        }

        fn build(&self) -> Result<BuildDir, Error> {
            BuildDir::below(Some(&self.tmp()), &self.home())
        }

        fn own(&self) -> PathBuf {
            self.tmp().join(format!("vbuild-{}", geteuid()))
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_build_is_the_users_alone_and_leaves_nothing() {
        let ground = Ground::new();
        let build = ground.build().unwrap();
        assert!(build.path().starts_with(ground.own()));
        assert_eq!((mode(&ground.own()), mode(build.path())), (0o700, 0o700));
        fs::create_dir_all(build.path().join("a/b")).unwrap();
        fs::write(build.path().join("a/b/c"), "").unwrap();
        let path = build.path().to_owned();
        drop(build);
        assert!(!path.exists());
        let mut kept = ground.build().unwrap();
        kept.keep();
        let path = kept.path().to_owned();
        drop(kept);
        drop(ground.build().unwrap());
        assert!(path.join(KEPT).exists());
        // Without TMPDIR it is in the cache.
        let build = BuildDir::below(None, &ground.home()).unwrap();
        assert!(build.path().starts_with(ground.home().join("run")));
    }

    #[test]
    fn dead_directories_go_and_living_ones_stay() {
        let ground = Ground::new();
        let own = rooted::private(&ground.own()).unwrap();
        // Both where they are made now and where earlier versions made them.
        for base in [ground.own(), ground.tmp()] {
            let dead = base.join("vbuild-run-999999999-0");
            let without_lock = base.join("vbuild-run-999999997-0");
            let living = base.join("vbuild-run-999999998-0");
            let other = base.join("somebody-else");
            for dir in [&dead, &without_lock, &living, &other] {
                fs::create_dir(dir).unwrap();
            }
            fs::write(dead.join(LOCK), "").unwrap();
            let lock = File::create(living.join(LOCK)).unwrap();
            let _held = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
            drop(ground.build().unwrap());
            assert!(!dead.exists() && !without_lock.exists());
            assert!(living.exists() && other.exists());
        }
        drop(own);
    }

    #[test]
    fn what_others_plant_is_neither_followed_nor_waited_for() {
        let ground = Ground::new();
        let precious = ground.home().join("authorized_keys");
        fs::write(&precious, "ssh-ed25519 AAAA... me\n").unwrap();
        let planted = |name: &str| {
            let dir = ground.tmp().join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        // Above the largest process id, so that they look left over.
        symlink(&precious, planted("vbuild-run-4194305-0").join(LOCK)).unwrap();
        let fifo = planted("vbuild-run-4194306-0").join(LOCK);
        mkfifo(&fifo, Mode::from_bits_truncate(0o666)).unwrap();
        fs::create_dir(planted("vbuild-run-4194307-0").join(LOCK)).unwrap();
        symlink(ground.home(), ground.tmp().join("vbuild-run-4194308-0")).unwrap();
        mkfifo(&ground.tmp().join("vbuild-run-4194309-0"), Mode::from_bits_truncate(0o666))
            .unwrap();
        let build = ground.build().unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "ssh-ed25519 AAAA... me\n");
        assert!(build.path().is_dir() && ground.home().is_dir() && fifo.exists());
    }

    #[test]
    fn the_name_of_ones_own_directory_can_be_taken_by_nobody() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can make files of another user");
            return;
        }
        let other = nix::unistd::Uid::from_raw(65_534);
        for kind in ["directory", "link", "fifo"] {
            let ground = Ground::new();
            match kind {
                "directory" => fs::create_dir(ground.own()).unwrap(),
                "link" => symlink(ground.home(), ground.own()).unwrap(),
                _ => mkfifo(&ground.own(), Mode::from_bits_truncate(0o666)).unwrap(),
            }
            let flag = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            nix::unistd::fchownat(nix::fcntl::AT_FDCWD, &ground.own(), Some(other), None, flag)
                .unwrap();
            let theirs = ground.tmp().join("vbuild-run-4194305-0");
            fs::create_dir(&theirs).unwrap();
            fs::write(theirs.join(LOCK), "").unwrap();
            nix::unistd::chown(&theirs, Some(other), None).unwrap();
            let build = ground.build().unwrap();
            let base = build.path().parent().unwrap().to_owned();
            assert_ne!(base, ground.own(), "{kind}");
            assert_eq!((mode(&base), base.parent().unwrap()), (0o700, ground.tmp().as_path()));
            assert!(theirs.join(LOCK).exists(), "{kind}: what is another user's stays");
            drop(build);
            // The next build takes the same one again.
            assert_eq!(ground.build().unwrap().path().parent().unwrap(), base);
            assert_eq!(fs::read_dir(ground.home()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_shared_folder_without_the_sticky_bit_is_refused() {
        let ground = Ground::new();
        fs::set_permissions(ground.tmp(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = ground.build().unwrap_err();
        assert!(matches!(error, Error::NotSticky { .. }), "{error}");
        assert!(error.hint().unwrap().contains("chmod +t"));
    }
}
