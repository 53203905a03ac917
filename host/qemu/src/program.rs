//! Finds QEMU and queries its version.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use machine::{MachineArchitecture, MachineError, accel::Emulator};

/// Finds QEMU: the program named, or the one of the architecture that `PATH` has first.
///
/// # Errors
/// When there is none that may be executed.
pub fn find(
    architecture: MachineArchitecture,
    named: Option<&Path>,
) -> Result<PathBuf, MachineError> {
    let missing = |what: String, reason: &str| MachineError::Unavailable {
        what,
        reason: reason.to_owned(),
        hint: Some(format!("install QEMU (the package `{}`)", architecture.qemu_package())),
    };
    if let Some(program) = named {
        if program.components().count() > 1 {
            return if executable(program) {
                Ok(program.to_owned())
            } else {
                Err(missing(format!("`{}`", program.display()), "it is not a program"))
            };
        }
        return in_path(program)
            .ok_or_else(|| missing(format!("`{}`", program.display()), "it is not in the path"));
    }
    let program = architecture.qemu_program();
    in_path(Path::new(program))
        .ok_or_else(|| missing(format!("`{program}`"), "it is not in the path"))
}

fn in_path(program: &Path) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| executable(path))
}

fn executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Describes the installed QEMU, for the choice of an accelerator and for `doctor`. Runs `PROGRAM
/// --version`, which takes some 30 ms.
#[must_use]
pub fn emulator(architecture: MachineArchitecture, named: Option<&Path>) -> Emulator {
    let program = match find(architecture, named) {
        Ok(program) => program,
        Err(cause) => return Emulator::Absent { reason: cause.to_string() },
    };
    let absent = |reason: String| Emulator::Absent {
        reason: format!("`{} --version`: {reason}", program.display()),
    };
    let output = Command::new(&program).arg("--version").stdin(Stdio::null()).output();
    match output {
        Err(cause) => absent(cause.to_string()),
        Ok(output) => match parse_version(&String::from_utf8_lossy(&output.stdout)) {
            Some(version) if output.status.success() => Emulator::Present { version },
            _ => absent(format!("{} and no version", output.status)),
        },
    }
}

/// The version in `QEMU emulator version 10.0.2 (Debian ...)`.
fn parse_version(text: &str) -> Option<String> {
    let word = text.lines().next()?.split_once("version ")?.1.split_whitespace().next()?;
    word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright\n";
        assert_eq!(parse_version(text).as_deref(), Some("10.0.2"));
        assert_eq!(parse_version("QEMU emulator version 7.2.22\n").as_deref(), Some("7.2.22"));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn a_program_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("qemu");
        fs::write(&file, "").unwrap();
        let amd64 = MachineArchitecture::Amd64;
        let error = find(amd64, Some(&file)).unwrap_err().to_string();
        assert!(error.contains("qemu` ") || error.contains("it is not a program"), "{error}");
        let error = find(amd64, Some(Path::new("no-such-emulator"))).unwrap_err().to_string();
        assert_eq!(error, "`no-such-emulator`: it is not in the path");
        assert!(matches!(
            emulator(MachineArchitecture::Amd64, Some(&file)),
            Emulator::Absent { .. }
        ));
    }
}
