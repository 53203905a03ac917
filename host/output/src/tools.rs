//! Runs programs of the host, for formats that are not written in process.

use std::{
    ffi::OsString,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{OutputError, Result};

/// Maximum bytes of a program's standard error in a message.
const STDERR_TAIL_BYTES: usize = 2000;

/// Finds a program in PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| {
        file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// Checks that a program exists, before the work that will need it.
///
/// # Errors
/// Fails if it is not in PATH.
pub fn needs_program(name: &str, needed_for: &str) -> Result<()> {
    match find(name) {
        Some(_) => Ok(()),
        None => Err(OutputError::MissingTool { tool: name.into(), needed_for: needed_for.into() }),
    }
}

/// Runs a program and waits for it.
pub(crate) fn run(tool: &str, args: &[OsString], needed_for: &str) -> Result<()> {
    let missing = || OutputError::MissingTool { tool: tool.into(), needed_for: needed_for.into() };
    let program = find(tool).ok_or_else(missing)?;
    let output = Command::new(&program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|e| OutputError::io("run", &program, e))?;
    if output.status.success() {
        return Ok(());
    }
    let tail = &output.stderr[output.stderr.len().saturating_sub(STDERR_TAIL_BYTES)..];
    let words = std::iter::once(tool.into()).chain(args.iter().map(|a| a.to_string_lossy()));
    Err(OutputError::Tool {
        argv: words.collect::<Vec<_>>().join(" "),
        status: output.status,
        stderr: String::from_utf8_lossy(tail).trim().to_owned(),
    })
}

/// Loads a container image into the host's container engine, with its own command: `docker` or
/// `podman`.
///
/// # Errors
/// Fails if the command is missing or fails.
pub fn load_container(engine: &str, archive: &Path) -> Result<()> {
    let args = ["load".into(), "--input".into(), archive.as_os_str().to_owned()];
    run(engine, &args, "to load the container image into it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_failing_programs() {
        let error = run("no-such-program", &[], "for the test").unwrap_err();
        assert_eq!(error.to_string(), "no-such-program needed but not found");
        assert_eq!(error.hint().as_deref(), Some("install no-such-program, for the test"));
        let error = run("ls", &["/does/not/exist".into()], "").unwrap_err().to_string();
        assert!(error.starts_with("`ls /does/not/exist` ended with exit status: 2: "), "{error}");
    }
}
