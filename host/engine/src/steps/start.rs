//! Handles scripts that the kernel refuses to start. In diskimage-builder, bash starts all scripts.
//! So here, too, bash runs a file whose first line names no interpreter; for other files, the error
//! is the one that bash would give.

use nix::errno::Errno;
use plan::Place;
use session::{Command, SessionError};

/// The shell that runs a file that is neither a program nor names an interpreter.
pub(super) const SHELL: &str = "/bin/bash";
/// The exit status of bash for a file that it cannot start.
const CANNOT_START: i32 = 126;
/// The exit status of bash for a command that is in no directory of PATH.
const NOT_FOUND: i32 = 127;
/// Maximum size of a script whose first line is examined.
const SCRIPT_MAX_BYTES: u64 = 1 << 20;

/// Returns the error number of the guest's system, if it reported one.
fn errno(error: &SessionError) -> Option<Errno> {
    match error {
        SessionError::Guest(failure) => failure.errno.map(Errno::from_raw),
        _ => None,
    }
}

/// Whether bash would run a file that the kernel has refused: the file has no first line that names
/// an interpreter, or is empty.
pub(super) fn needs_bash(error: &SessionError) -> bool {
    errno(error) == Some(Errno::ENOEXEC)
}

/// Returns why a script could not be started, if the script itself is at fault: the exit status
/// that bash would give, and the reason.
pub(super) async fn reason(
    command: &Command,
    root: &str,
    place: Place,
    error: &SessionError,
) -> Option<(i32, String)> {
    let (errno, script) = (errno(error)?, command.program());
    if errno == Errno::ENOENT && !script.contains('/') {
        return Some((NOT_FOUND, format!("{script}: command not found")));
    }
    if !matches!(errno, Errno::ENOENT | Errno::EACCES) || !script.starts_with('/') {
        return None;
    }
    let content = command.session().get_file(root, script, SCRIPT_MAX_BYTES).await.ok()?;
    Some((CANNOT_START, format!("{script}: {}", describe(&content, place, errno))))
}

/// Describes why an existing script cannot be started.
fn describe(content: &[u8], place: Place, errno: Errno) -> String {
    let here = match place {
        Place::Tools => "the appliance",
        Place::Image => "the image",
    };
    let line = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(line) = line.strip_prefix(b"#!") else {
        return match errno {
            Errno::ENOENT => format!("it is a program whose loader is not in {here}"),
            errno => format!("it cannot be run: {}", errno.desc()),
        };
    };
    let line = String::from_utf8_lossy(line);
    let interpreter = line.trim_start().split([' ', '\t']).next().unwrap_or_default();
    match (interpreter.strip_suffix('\r'), errno) {
        (Some(meant), _) => format!(
            "bad interpreter: its lines end with CR LF as on Windows, so `{meant}` and a carriage return is \
             looked for; `sed -i 's/\\r$//'` mends the file"
        ),
        (None, Errno::ENOENT) => {
            format!("bad interpreter: its first line names `{interpreter}`, which is not in {here}")
        }
        (None, errno) => {
            format!("bad interpreter: its first line names `{interpreter}`: {}", errno.desc())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: Errno) -> SessionError {
        SessionError::Guest(session::Failure {
            action: "run".into(),
            reason: errno.desc().into(),
            errno: Some(errno as i32),
        })
    }

    #[test]
    fn bash_runs_what_has_no_first_line_of_its_own() {
        assert!(needs_bash(&refused(Errno::ENOEXEC)));
        assert!(!needs_bash(&refused(Errno::ENOENT)));
    }

    #[test]
    fn the_true_cause_is_named() {
        let says = |content: &str, errno| describe(content.as_bytes(), Place::Image, errno);
        assert!(says("#!/bin/bash\r\nx\r\n", Errno::ENOENT).contains("CR LF as on Windows"));
        assert!(says("#!/bin/bash -e\r\n", Errno::ENOENT).contains("names `/bin/bash`"));
        assert_eq!(
            says("#! /usr/bin/python -u\n", Errno::ENOENT),
            "bad interpreter: its first line names `/usr/bin/python`, which is not in the image"
        );
        assert!(says("\u{7f}ELF", Errno::ENOENT).contains("loader is not in the image"));
        assert!(
            says("#!/etc/passwd\n", Errno::EACCES).contains("`/etc/passwd`: Permission denied")
        );
    }
}
