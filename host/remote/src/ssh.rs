//! A folder of another machine, by the user's own ssh: its keys, its agent, its
//! configuration. There, a shell, `cat`, `mkdir` and `mv` are enough.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::process::Command;

use crate::backend::{Backend, Later};

/// What a remote command says with its status: there is no such file.
const MISSING: i32 = 44;
/// Bytes of an error message that are told.
const MESSAGE_MAX_BYTES: usize = 2000;

/// A folder of another machine.
#[derive(Debug)]
pub(crate) struct Ssh {
    program: PathBuf,
    host: String,
    port: Option<u16>,
    folder: String,
}

impl Ssh {
    pub(crate) fn new(program: &Path, host: &str, port: Option<u16>, folder: &str) -> Self {
        Self { program: program.into(), host: host.into(), port, folder: folder.into() }
    }

    /// Runs a script there, with `$1` the file that it is about.
    async fn run(
        &self,
        script: &str,
        name: &str,
        input: Stdio,
        output: Stdio,
    ) -> std::io::Result<(ExitStatus, String)> {
        let path = format!("{}/{name}", self.folder);
        let remote = format!("sh -c {} vbuild {}", quoted(script), quoted(&path));
        let mut command = Command::new(&self.program);
        // Nobody sits there to answer questions, in the middle of a build.
        command.args(["-o", "BatchMode=yes"]);
        if let Some(port) = self.port {
            command.args(["-p", &port.to_string()]);
        }
        command.args(["--", &self.host, &remote]);
        command.stdin(input).stdout(output).stderr(Stdio::piped()).kill_on_drop(true);
        let done = command.spawn()?.wait_with_output().await?;
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Ok((done.status, said.chars().take(MESSAGE_MAX_BYTES).collect()))
    }
}

fn failed(status: ExitStatus, said: &str) -> std::io::Error {
    let said = if said.is_empty() { "it said nothing" } else { said };
    std::io::Error::other(format!("ssh: {status}: {said}"))
}

/// A word for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Backend for Ssh {
    fn exists<'a>(&'a self, name: &'a str) -> Later<'a, bool> {
        Box::pin(async move {
            let script = format!("test -f \"$1\" || exit {MISSING}");
            let (status, said) = self.run(&script, name, Stdio::null(), Stdio::null()).await?;
            match status.code() {
                Some(0) => Ok(true),
                Some(MISSING) => Ok(false),
                _ => Err(failed(status, &said).into()),
            }
        })
    }

    fn get<'a>(&'a self, name: &'a str, to: &'a mut File) -> Later<'a, Option<u64>> {
        Box::pin(async move {
            let script = format!("test -f \"$1\" || exit {MISSING}; exec cat \"$1\"");
            let output = Stdio::from(to.try_clone()?);
            let (status, said) = self.run(&script, name, Stdio::null(), output).await?;
            match status.code() {
                Some(0) => Ok(Some(to.metadata()?.len())),
                Some(MISSING) => Ok(None),
                _ => Err(failed(status, &said).into()),
            }
        })
    }

    fn put<'a>(&'a self, name: &'a str, from: &'a mut File, bytes: u64) -> Later<'a, ()> {
        Box::pin(async move {
            // A connection that breaks leaves a part under another name, because
            // cat then ends as if all were there.
            let script = format!(
                "set -e; mkdir -p \"${{1%/*}}\"; part=\"$1.$$.part\"; trap 'rm -f \"$part\"' EXIT; \
                 cat > \"$part\"; test \"$(wc -c < \"$part\")\" -eq {bytes}; mv \"$part\" \"$1\""
            );
            let input = Stdio::from(from.try_clone()?);
            let (status, said) = self.run(&script, name, input, Stdio::null()).await?;
            if status.success() { Ok(()) } else { Err(failed(status, &said).into()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
