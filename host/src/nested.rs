//! A build that another build needs first: the program started once more, as a process
//! that does not outlive the one that waits for it.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, getppid},
};
use tokio::sync::watch;

/// The first argument of a nested build; the next one is its parent's process id.
const VERB: &str = "__nested";

/// How often it is looked whether a nested build has ended, or shall end.
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// The program, to which the arguments of the nested build are to be added.
#[must_use]
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg(VERB)
        .arg(std::process::id().to_string())
        .stdin(Stdio::null())
        // Ctrl-C on the terminal is for this process, which hands it on.
        .process_group(0);
    command
}

/// Runs a nested build to its end. When `cancel` becomes true it is asked to stop and
/// waited for; then there is no status. The calling thread must be one that lives as
/// long as the process, because the kernel takes its end for that of the parent.
///
/// # Errors
/// When the process cannot be started.
pub(crate) fn run(
    command: &mut Command,
    cancel: &watch::Receiver<bool>,
) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((!asked).then_some(status));
        }
        if !asked && *cancel.borrow() {
            // It is not reaped, so the number is its own.
            kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
            asked = true;
        }
        std::thread::sleep(LOOK_PERIOD);
    }
}

/// Gives the arguments of an ordinary invocation. A nested one asks the kernel first
/// to be told to stop when its parent dies.
///
/// # Errors
/// When the parent is dead already.
pub(crate) fn enter(mut argv: Vec<OsString>) -> io::Result<Vec<OsString>> {
    if argv.get(1).is_none_or(|verb| verb != VERB) {
        return Ok(argv);
    }
    let parent: Option<i32> = argv.get(2).and_then(|number| number.to_str()?.parse().ok());
    let check = || match parent {
        Some(parent) if parent == getppid().as_raw() => Ok(()),
        _ => Err(io::Error::other("the parent is gone")),
    };
    check()?;
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    // If it died before that line, no signal will ever come.
    check()?;
    argv.drain(1..3);
    Ok(argv)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn other_invocations_are_left_alone() {
        for line in ["vbuild", "vbuild vmdb a.vmdb"] {
            assert_eq!(enter(words(line)).unwrap(), words(line));
        }
    }

    #[test]
    fn a_nested_build_without_its_parent_does_not_begin() {
        let line = format!("vbuild {VERB} {} vmdb a.vmdb", std::process::id());
        assert!(enter(words(&line)).is_err());
        assert!(enter(words(&format!("vbuild {VERB}"))).is_err());
    }

    #[test]
    fn a_nested_process_is_stopped_and_waited_for() {
        let (stop, cancel) = watch::channel(false);
        assert!(run(&mut Command::new("true"), &cancel).unwrap().unwrap().success());
        stop.send_replace(true);
        assert_eq!(run(Command::new("sleep").arg("600"), &cancel).unwrap(), None);
    }
}
