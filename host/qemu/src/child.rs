//! The process that becomes QEMU: vbuild's own program, which replaces the unsafe code that other
//! programs run between `fork` and `exec`.
//!
//! vbuild starts itself as `vbuild __qemu-child ORDERS PROGRAM ARGS...`. That process requests to
//! be killed when vbuild dies, confines itself, reports the result, and becomes QEMU, which keeps
//! these restrictions: only the few paths that it reads itself, no system calls that reach other
//! processes or the network, no privileges, no core files, limited file sizes, only the passed
//! descriptors, and no environment. However vbuild ends, even by SIGKILL, QEMU ends with it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{self, Command},
};

use confine::{Landlock, Paths};
use serde::{Deserialize, Serialize};

/// The first argument by which vbuild's `main` recognizes that it must call [`exec_child`].
pub const CHILD_VERB: &str = "__qemu-child";

/// Exit status if QEMU could not be started, as in a shell.
const EXIT_NOT_STARTED: i32 = 127;
/// Maximum descriptors of QEMU: a few per drive and per layer, of which there are at most 64 on
/// each of 16 drives.
const DESCRIPTORS_MAX: u64 = 4096;

/// The parameters of the process, passed as one argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Orders {
    /// The parent's process id.
    pub(crate) parent: i32,
    /// The highest passed descriptor. The process reports its Landlock ruleset to it as JSON; QEMU
    /// does not get it.
    pub(crate) report_fd: i32,
    /// Maximum size of any file that it writes.
    pub(crate) file_bytes: u64,
    /// The paths that QEMU opens itself.
    pub(crate) paths: Paths,
}

/// Becomes QEMU. Must be called before the process has a second thread or an async runtime, whose
/// descriptors it would close. `args` are the arguments after [`CHILD_VERB`]: the orders, the
/// program and its arguments.
pub fn exec_child(args: impl Iterator<Item = OsString>) -> ! {
    let cause = match prepare(args) {
        Ok(mut command) => command.exec(),
        Err(cause) => cause,
    };
    // The parent reads this from the pipe and shows it to the user.
    let _ = writeln!(io::stderr(), "{cause}");
    process::exit(EXIT_NOT_STARTED);
}

/// Everything up to exec.
fn prepare(mut args: impl Iterator<Item = OsString>) -> io::Result<Command> {
    let wrong = || io::Error::other("wrong arguments");
    let orders = args.next().ok_or_else(wrong)?;
    let orders: Orders = serde_json::from_str(orders.to_str().ok_or_else(wrong)?)?;
    let program = args.next().ok_or_else(wrong)?;

    confine::die_with(orders.parent).map_err(io::Error::other)?;
    confine::close_above(orders.report_fd).map_err(io::Error::other)?;
    // Reopened with close-on-exec, so that it closes when QEMU starts.
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
