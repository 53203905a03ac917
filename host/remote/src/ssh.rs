//! A folder of another machine, by the user's own ssh: its keys, its agent, its
//! configuration. There, a shell, `cat`, `mkdir` and `mv` are enough.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use crate::backend::{Backend, Got, Later};

/// What a remote command says with its status: there is no such file.
const MISSING: i32 = 44;
/// Bytes of an error message that are kept and told.
const MESSAGE_MAX_BYTES: u64 = 2000;
/// Bytes that are read at once.
const COPY_BYTES: usize = 256 << 10;

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
    ) -> std::io::Result<(ExitStatus, String)> {
        let mut child = self.start(script, name, input, Stdio::null())?;
        let said = said(&mut child).await?;
        Ok((child.wait().await?, said))
    }

    fn start(
        &self,
        script: &str,
        name: &str,
        input: Stdio,
        output: Stdio,
    ) -> std::io::Result<Child> {
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
        command.spawn()
    }
}

/// Why a transfer was not carried on.
enum Stopped {
    Larger,
    Failed(std::io::Error),
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error)
    }
}

/// The beginning of what a child says on standard error, until it has said all.
async fn said(child: &mut Child) -> std::io::Result<String> {
    let Some(mut errors) = child.stderr.take() else { return Ok(String::new()) };
    let mut text = Vec::new();
    (&mut errors).take(MESSAGE_MAX_BYTES).read_to_end(&mut text).await?;
    tokio::io::copy(&mut errors, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// Copies to the end; `None` when there is more than allowed.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    to: &mut File,
    max_bytes: u64,
) -> std::io::Result<Option<u64>> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut bytes = 0;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(Some(bytes));
        }
        bytes += count as u64;
        if bytes > max_bytes {
            return Ok(None);
        }
        to.write_all(&buffer[..count])?;
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
            let (status, said) = self.run(&script, name, Stdio::null()).await?;
            match status.code() {
                Some(0) => Ok(true),
                Some(MISSING) => Ok(false),
                _ => Err(failed(status, &said).into()),
            }
        })
    }

    fn get<'a>(&'a self, name: &'a str, to: &'a mut File, max_bytes: u64) -> Later<'a, Got> {
        Box::pin(async move {
            let script = format!("test -f \"$1\" || exit {MISSING}; exec cat \"$1\"");
            let mut child = self.start(&script, name, Stdio::null(), Stdio::piped())?;
            let Some(output) = child.stdout.take() else {
                return Err(std::io::Error::other("ssh: no output").into());
            };
            let copied = async { copy(output, to, max_bytes).await?.ok_or(Stopped::Larger) };
            let heard = async { Ok(said(&mut child).await?) };
            let (bytes, said) = match tokio::try_join!(copied, heard) {
                Ok(done) => done,
                // Dropping the child ends it.
                Err(Stopped::Larger) => return Ok(Got::Larger),
                Err(Stopped::Failed(error)) => return Err(error.into()),
            };
            let status = child.wait().await?;
            match status.code() {
                Some(0) => Ok(Got::Whole(bytes)),
                Some(MISSING) => Ok(Got::Missing),
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
            let (status, said) = self.run(&script, name, input).await?;
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
