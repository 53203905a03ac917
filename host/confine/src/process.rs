//! Restricts a process: death with its parent, privileges, limits and descriptors.

use std::{fs, io};

use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
    },
    unistd,
};

use crate::{ConfineError, system};

/// Makes this process die with its parent. Must be called first: if the parent is not `parent`, it
/// has died already, and the signal would never arrive.
///
/// # Errors
/// Fails if the parent is gone.
pub fn die_with(parent: i32) -> Result<(), ConfineError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(system("set the death signal"))?;
    if unistd::getppid().as_raw() == parent { Ok(()) } else { Err(ConfineError::Orphaned) }
}

/// Sets `no_new_privs`: also programs with a set-user-ID bit gain no privileges.
///
/// # Errors
/// Fails if the kernel refuses.
pub fn forbid_privileges() -> Result<(), ConfineError> {
    prctl::set_no_new_privs().map_err(system("give up new privileges"))
}

/// Disables dumps of this process's memory: core files, including those piped to a program, and
/// tracing by processes of the same user.
///
/// # Errors
/// Fails if the kernel refuses.
pub fn forbid_memory_images() -> Result<(), ConfineError> {
    prctl::set_dumpable(false).map_err(system("forbid memory dumps"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(system("forbid core files"))
}

/// Disables core files of this process and of the program that it executes, which the kernel makes
/// dumpable again.
///
/// The limit is one byte instead of zero: if cores are piped to a program (`core_pattern` begins
/// with `|`), Linux ignores every limit but exactly this one (`do_coredump` in `fs/coredump.c`),
/// and no core file fits in one byte.
///
/// # Errors
/// Fails if the kernel refuses.
pub fn forbid_core_files() -> Result<(), ConfineError> {
    const NOT_EVEN_TO_A_PROGRAM_BYTES: u64 = 1;
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).map_err(system("read the limit of cores"))?;
    let bytes = NOT_EVEN_TO_A_PROGRAM_BYTES.min(hard);
    setrlimit(Resource::RLIMIT_CORE, bytes, bytes).map_err(system("forbid core files"))
}

/// Limits the number of descriptors.
///
/// # Errors
/// Fails if the kernel refuses.
pub fn limit_descriptors(most: u64) -> Result<(), ConfineError> {
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(system("read the descriptor limit"))?;
    let most = most.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
        .map_err(system("limit the number of descriptors"))
}

/// Closes all descriptors above `last`: vbuild's own parent may have left some open without the
/// close-on-exec flag. Must be called before the process opens any.
///
/// # Errors
/// Fails if `/proc` does not list the open descriptors.
pub fn close_above(last: i32) -> Result<(), ConfineError> {
    for fd in open_descriptors().map_err(system("list the open descriptors"))? {
        if fd > last {
            // The descriptor of the listing itself is closed already: EBADF.
            let _ = unistd::close(fd);
        }
    }
    Ok(())
}

fn open_descriptors() -> io::Result<Vec<i32>> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(open)
}
