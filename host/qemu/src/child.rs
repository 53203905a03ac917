//! The moment between fork and QEMU: a program of our own, in the place where
//! others run unsafe code between `fork` and `exec`.
//!
//! vbuild starts itself as `vbuild __qemu-child PARENT FDS PROGRAM ARGS...`.
//! That process asks the kernel to be killed when vbuild dies, gives up ever
//! gaining privileges, closes what it should not have, and becomes QEMU. However
//! vbuild ends, by SIGKILL too, QEMU ends with it.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{self, Command},
};

use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::Signal,
    },
    unistd,
};

/// The first argument by which vbuild's `main` knows that it is to call
/// [`exec_child`].
pub const CHILD_VERB: &str = "__qemu-child";

/// The exit status when QEMU could not be started, as in a shell.
const EXIT_NOT_STARTED: i32 = 127;

/// Becomes QEMU. To be called before the process has a second thread or an async
/// runtime, whose descriptors it would close. `args` are those behind [`CHILD_VERB`]: the parent's process
/// id, the highest descriptor to keep, the program and its arguments.
pub fn exec_child(args: impl Iterator<Item = OsString>) -> ! {
    let cause = match prepare(args) {
        Ok(mut command) => command.exec(),
        Err(cause) => cause,
    };
    // The parent reads this from the pipe and shows it to the user.
    let _ = writeln!(io::stderr(), "{cause}");
    process::exit(EXIT_NOT_STARTED);
}

/// Everything before the program is replaced.
fn prepare(mut args: impl Iterator<Item = OsString>) -> io::Result<Command> {
    let mut number = || -> Option<i32> { args.next()?.to_str()?.parse().ok() };
    let wrong = || io::Error::other("wrong arguments");
    let parent = number().ok_or_else(wrong)?;
    let last_fd = number().ok_or_else(wrong)?;
    let program = args.next().ok_or_else(wrong)?;

    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // If the parent died before that line, no signal will ever come.
    if unistd::getppid().as_raw() != parent {
        return Err(io::Error::other("the parent is gone"));
    }
    prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    close_above(last_fd)?;

    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

/// Closes all descriptors above `last`: some may come from vbuild's own parent
/// without the close-on-exec flag.
fn close_above(last: i32) -> io::Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for fd in open {
        if fd > last {
            // The descriptor of the listing itself is gone already: EBADF.
            let _ = unistd::close(fd);
        }
    }
    Ok(())
}
