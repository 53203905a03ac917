//! Which permissions new files get.
//!
//! A process has one umask for all its threads, so it cannot be changed around a
//! single file. vbuild therefore begins with a private one, and gives outputs the
//! permission bits that the user's own umask would have left.

use std::{
    fs::{self, File, Metadata, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::OnceLock,
};

use nix::sys::stat::{Mode, umask};

/// The umask that the process was started with, once it has been replaced.
static USERS: OnceLock<u32> = OnceLock::new();
/// What login shells set where nothing else is known.
const USUAL: u32 = 0o022;

/// Makes everything that is created from now on the user's alone, unless it is given
/// its mode with [`allow_user_mode`]. To be called once, before threads start.
pub fn make_umask_private() {
    let before = umask(Mode::from_bits_truncate(0o077));
    // A second call finds the private umask, which is not the user's.
    let _ = USERS.set(before.bits());
}

fn users() -> u32 {
    USERS.get().copied().unwrap_or_else(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(USUAL)
    })
}

/// The permission bits that the user's umask leaves of `mode`.
#[must_use]
pub fn user_mode(mode: u32) -> u32 {
    mode & !users()
}

/// Gives a new output the permission bits that the user's umask leaves of `mode`.
/// Bits that it has already stay: the default ACL of a directory may have given them.
///
/// # Errors
/// When the mode cannot be read or set.
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

/// The same for a file or directory that this process has just made at a path.
///
/// # Errors
/// When the mode cannot be read or set.
pub fn allow_user_mode_at(path: &Path, mode: u32) -> io::Result<()> {
    match wanted(&fs::symlink_metadata(path)?, mode) {
        Some(wanted) => fs::set_permissions(path, wanted),
        None => Ok(()),
    }
}

/// Makes a directory for outputs, with those above it that are missing, each with the
/// permission bits that the user's umask leaves of 0777.
///
/// # Errors
/// When one of them cannot be made.
pub fn make_user_directories(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    fs::create_dir_all(path)?;
    missing.iter().try_for_each(|made| allow_user_mode_at(made, 0o777))
}
