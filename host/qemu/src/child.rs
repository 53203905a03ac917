//! The moment between fork and QEMU: a program of our own, in the place where
//! others run unsafe code between `fork` and `exec`.
//!
//! vbuild starts itself as `vbuild __qemu-child ORDERS PROGRAM ARGS...`. That
//! process asks the kernel to be killed when vbuild dies, confines itself, tells
//! what came of it, and becomes QEMU, which keeps all of that: no path but the few
//! that it reads itself, none of the system calls by which it would reach somebody,
//! no privileges, no core files, bounded files, no descriptor but those it was given,
//! no environment. However vbuild ends, by SIGKILL too, QEMU ends with it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{self, Command},
};

use confine::{Landlock, Paths};
use serde::{Deserialize, Serialize};

/// The first argument by which vbuild's `main` knows that it is to call
/// [`exec_child`].
pub const CHILD_VERB: &str = "__qemu-child";

/// The exit status when QEMU could not be started, as in a shell.
const EXIT_NOT_STARTED: i32 = 127;
/// Descriptors of QEMU: a handful for each drive and each of its layers, of which there
/// are at most 64 on each of 16 drives.
const DESCRIPTORS_MAX: u64 = 4096;

/// What the process is told, as one argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Orders {
    /// The parent's process id.
    pub(crate) parent: i32,
    /// The highest descriptor that was given. It is where the process tells its
    /// landlock, as JSON, and QEMU does not get it.
    pub(crate) report_fd: i32,
    /// The size that no file may exceed.
    pub(crate) file_bytes: u64,
    /// What QEMU opens by itself.
    pub(crate) paths: Paths,
}

/// Becomes QEMU. To be called before the process has a second thread or an async
/// runtime, whose descriptors it would close. `args` are those behind [`CHILD_VERB`]:
/// the orders, the program and its arguments.
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
    let wrong = || io::Error::other("wrong arguments");
    let orders = args.next().ok_or_else(wrong)?;
    let orders: Orders = serde_json::from_str(orders.to_str().ok_or_else(wrong)?)?;
    let program = args.next().ok_or_else(wrong)?;

    confine::die_with(orders.parent).map_err(io::Error::other)?;
    confine::close_above(orders.report_fd).map_err(io::Error::other)?;
    // Opened once more, so that it closes by itself when QEMU begins.
    let mut report =
        File::options().write(true).open(format!("/proc/self/fd/{}", orders.report_fd))?;
    nix::unistd::close(orders.report_fd)?;
    let landlock = confine_process(&orders)?;
    serde_json::to_writer(&mut report, &landlock)?;

    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

fn confine_process(orders: &Orders) -> io::Result<Landlock> {
    microvm::limit_file_size(orders.file_bytes)?;
    let rest = || {
        confine::forbid_privileges()?;
        confine::forbid_core_files()?;
        confine::limit_descriptors(DESCRIPTORS_MAX)?;
        let landlock = confine::restrict(&orders.paths)?;
        confine::refuse_calls_of_emulators()?;
        Ok(landlock)
    };
    rest().map_err(|error: confine::ConfineError| io::Error::other(checked::chain(&error)))
}
