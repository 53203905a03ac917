//! Looks up a path below an open directory, by two equivalent methods: the kernel's `openat2`, and
//! component by component.
//!
//! With either method, a link gives `ELOOP`, and a path that leads out gives `EXDEV`.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::OnceLock,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat},
    sys::stat::{Mode, SFlag, fstatat},
};

/// Maximum retries if a rename races with the kernel's lookup; more in a row indicate an attack.
const RACES_MAX: u32 = 64;
/// Maximum links followed for one path: the kernel's MAXSYMLINKS.
const LINKS_MAX: u32 = 40;

/// The lookup method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupMethod {
    /// By `openat2`.
    Kernel,
    /// Component by component.
    Components,
}

impl LookupMethod {
    /// Chooses `openat2`, or components if the kernel lacks that call (before 5.6) or a seccomp
    /// profile denies it: those of older container engines return EPERM.
    pub(crate) fn detect() -> Self {
        static DETECTED: OnceLock<LookupMethod> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
            match openat2(AT_FDCWD, "/", how) {
                Err(Errno::ENOSYS | Errno::EPERM) => Self::Components,
                _ => Self::Kernel,
            }
        })
    }
}

/// Splits a relative path into its components.
///
/// # Errors
/// `EXDEV` for an absolute path and for one that contains `..`.
fn names(path: &Path) -> nix::Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(Errno::EXDEV),
        }
    }
    Ok(names)
}

/// Opens a path below a directory. No component may be a symbolic link; with `O_PATH` the last one
/// may be, and the link itself is opened.
pub(crate) fn open(
    at: impl AsFd,
    path: &Path,
    flags: OFlag,
    mode: Mode,
    method: LookupMethod,
) -> nix::Result<OwnedFd> {
    let names = names(path)?;
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match method {
        LookupMethod::Kernel => by_kernel(&at, &names, flags, mode),
        LookupMethod::Components => by_components(&at, &names, flags, mode),
    }
}

fn by_kernel(at: &impl AsFd, names: &[&OsStr], flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    let path: PathBuf = if names.is_empty() { ".".into() } else { names.iter().collect() };
    let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
    // With O_DIRECTORY, a link that is not followed would give ENOTDIR.
    let flags = if flags.contains(OFlag::O_DIRECTORY) { flags - OFlag::O_NOFOLLOW } else { flags };
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
    for _ in 0..RACES_MAX {
        match openat2(at.as_fd(), path.as_path(), how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
    Err(Errno::ELOOP)
}

fn by_components(
    at: &impl AsFd,
    names: &[&OsStr],
    flags: OFlag,
    mode: Mode,
) -> nix::Result<OwnedFd> {
    let Some((last, parents)) = names.split_last() else {
        return openat(at.as_fd(), ".", flags, mode);
    };
    let mut reached = at.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    for name in parents {
        reached = enter(&reached, name)?;
    }
    openat(&reached, *last, flags, mode).map_err(|error| link_error(error, &reached, last))
}

/// Opens a subdirectory by name.
fn enter(at: &impl AsFd, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(at.as_fd(), name, flags, Mode::empty()).map_err(|error| link_error(error, at, name))
}

/// Normalizes the error for a link in the path: the kernel's depends on the flags, `openat2` always
/// returns `ELOOP`.
fn link_error(error: Errno, at: &impl AsFd, name: &OsStr) -> Errno {
    let in_the_way = matches!(error, Errno::ELOOP | Errno::ENOTDIR | Errno::EMLINK);
    if in_the_way && is_link(at, name) { Errno::ELOOP } else { error }
}

fn is_link(at: &impl AsFd, name: &OsStr) -> bool {
    fstatat(at.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits())
}

/// Resolves a path to one without links, following links that stay below the directory. `root` is
/// the directory's own path: an absolute path, given or in a link, is valid if it begins with
/// `root`.
///
/// # Errors
/// `EXDEV` if the path leads out, `ELOOP` if it is a loop, `ENOENT` if it does not exist.
pub(crate) fn resolve(at: impl AsFd, root: &Path, path: &Path) -> nix::Result<PathBuf> {
    let mut pending: VecDeque<OsString> = VecDeque::new();
    // The directories entered so far, with their names; the first is the root.
    let mut entered: Vec<(OwnedFd, OsString)> = Vec::new();
    let mut result = PathBuf::new();
    let mut links = 0;
    push_front(&mut pending, root, path, &mut entered, &mut result)?;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            entered.pop().ok_or(Errno::EXDEV)?;
            result.pop();
            continue;
        }
        let target = match entered.last() {
            Some((directory, _)) => step(directory, &name)?,
            None => step(&at, &name)?,
        };
        match target {
            Step::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::ELOOP);
                }
                push_front(&mut pending, root, Path::new(&target), &mut entered, &mut result)?;
            }
            Step::Directory(directory) => {
                result.push(&name);
                entered.push((directory, name));
            }
            Step::Other if pending.iter().all(|rest| rest == ".") => {
                result.push(&name);
                return Ok(result);
            }
            Step::Other => return Err(Errno::ENOTDIR),
        }
    }
    Ok(result)
}

/// Prepends the components of a path to those still to be looked up. An absolute path restarts at
/// the root.
fn push_front(
    pending: &mut VecDeque<OsString>,
    root: &Path,
    path: &Path,
    entered: &mut Vec<(OwnedFd, OsString)>,
    result: &mut PathBuf,
) -> nix::Result<()> {
    let path = if path.is_absolute() {
        entered.clear();
        result.clear();
        path.strip_prefix(root).map_err(|_| Errno::EXDEV)?
    } else {
        path
    };
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => pending.push_front(name.to_owned()),
            Component::ParentDir => pending.push_front("..".into()),
            _ => {}
        }
    }
    Ok(())
}

enum Step {
    Directory(OwnedFd),
    Link(OsString),
    Other,
}

fn step(at: &impl AsFd, name: &OsStr) -> nix::Result<Step> {
    match readlinkat(at.as_fd(), name) {
        Ok(target) => return Ok(Step::Link(target)),
        // It is not a link.
        Err(Errno::EINVAL) => {}
        Err(error) => return Err(error),
    }
    match enter(at, name) {
        Ok(directory) => Ok(Step::Directory(directory)),
        Err(Errno::ENOTDIR) => Ok(Step::Other),
        Err(error) => Err(error),
    }
}
