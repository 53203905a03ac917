//! The mode of new files.
//!
//! A process has one umask for all its threads, so it cannot be changed for a single file. vbuild
//! therefore starts with a private umask, and gives outputs the mode that the user's own umask
//! permits.

use std::{
    fs::{self, File, Metadata, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::OnceLock,
};

use nix::sys::stat::{Mode, umask};

/// The umask with which the process was started, once it is replaced.
static USERS: OnceLock<u32> = OnceLock::new();
/// The default umask of login shells, if the user's is unknown.
const USUAL: u32 = 0o022;

/// Makes all files created from now on private, unless [`allow_user_mode`] sets their mode. Must be
/// called once, before threads start.
pub fn make_umask_private() {
    let before = umask(Mode::from_bits_truncate(0o077));
    // A second call finds the private umask instead of the user's.
    let _ = USERS.set(before.bits());
}

fn users() -> u32 {
    USERS.get().copied().unwrap_or_else(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(USUAL)
    })
}

/// `mode` without the bits of the user's umask.
#[must_use]
pub fn user_mode(mode: u32) -> u32 {
    mode & !users()
}

/// Gives a new output the permission bits in `mode` that the user's umask permits. Bits that it
/// already has are kept: they may come from the default ACL of a directory.
///
/// # Errors
/// Fails if the mode cannot be read or set.
pub fn allow_user_mode(file: &File, mode: u32) -> io::Result<()> {
    match wanted(&file.metadata()?, mode) {
        Some(wanted) => file.set_permissions(wanted),
        None => Ok(()),
    }
}

fn wanted(metadata: &Metadata, mode: u32) -> Option<Permissions> {
    let now = metadata.permissions().mode() & 0o7777;
    let wanted = now | user_mode(mode);
    (wanted != now).then(|| Permissions::from_mode(wanted))
}

/// The same for a file or directory that this process has just created at a path.
///
/// # Errors
/// Fails if the mode cannot be read or set.
pub fn allow_user_mode_at(path: &Path, mode: u32) -> io::Result<()> {
    match wanted(&fs::symlink_metadata(path)?, mode) {
        Some(wanted) => fs::set_permissions(path, wanted),
        None => Ok(()),
    }
}

/// Creates a directory for outputs with its missing parents, each with the mode 0777 less the
/// user's umask.
///
/// # Errors
/// Fails if one of them cannot be created.
pub fn make_user_directories(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    fs::create_dir_all(path)?;
    missing.iter().try_for_each(|made| allow_user_mode_at(made, 0o777))
}
