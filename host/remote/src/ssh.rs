//! A directory of another machine, accessed by the user's own ssh with its keys, agent and
//! configuration. The other machine needs only a shell, `cat`, `mkdir`, `mv`, `rm` and `wc`.

use std::{
    ffi::OsString,
    fs::File,
    io::Write,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
};

use crate::{
    Listed, Options,
    backend::{Backend, Got, Later, too_many},
};

/// Exit status of a remote command for a file that does not exist.
const MISSING: i32 = 44;
/// Maximum number of bytes of an error message that are kept and shown.
const MESSAGE_MAX_BYTES: u64 = 2000;
/// Maximum bytes of a line in a list: a size, and the longest file name that Linux permits.
const LISTED_MAX_BYTES: u64 = 280;
/// The size of the copy buffer in bytes.
const COPY_BYTES: usize = 256 << 10;

/// A directory of another machine.
#[derive(Debug)]
pub(crate) struct Ssh {
    program: PathBuf,
    key: Option<PathBuf>,
    host: String,
    port: Option<u16>,
    folder: String,
}

impl Ssh {
    pub(crate) fn new(options: &Options, host: &str, port: Option<u16>, folder: &str) -> Self {
        let Options { ssh: program, ssh_key: key, .. } = options.clone();
        Self { program, key, host: host.into(), port, folder: folder.into() }
    }

    /// Runs a script on the other machine, with the path of the file `name` as `$1`.
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
        // Nobody can answer questions in the middle of a build.
        command.args(["-o", "BatchMode=yes"]);
        if let Some(key) = &self.key {
            command.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(literal(key));
        }
        if let Some(port) = self.port {
            command.args(["-p", &port.to_string()]);
        }
        command.args(["--", &self.host, &remote]);
        command.stdin(input).stdout(output).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn()
    }
}

/// Why a transfer ended early.
enum Stopped {
    Larger,
    Failed(std::io::Error),
}

impl From<std::io::Error> for Stopped {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Reads standard error of a child to its end, and returns the beginning of it.
async fn said(child: &mut Child) -> std::io::Result<String> {
    let Some(mut errors) = child.stderr.take() else { return Ok(String::new()) };
    let mut text = Vec::new();
    (&mut errors).take(MESSAGE_MAX_BYTES).read_to_end(&mut text).await?;
    tokio::io::copy(&mut errors, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// Copies until the end; `None` if there are more than `max_bytes`.
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

/// Escapes a path for ssh, which expands `%`.
fn literal(path: &Path) -> OsString {
    let parts = path.as_os_str().as_bytes().split(|byte| *byte == b'%');
    OsString::from_vec(parts.collect::<Vec<_>>().join(&b"%%"[..]))
}

/// Parses the output of the list script: a size and a name on each line.
fn listed(text: &str) -> Vec<Listed> {
    let line = |line: &str| {
        let (bytes, name) = line.trim_start().split_once(' ')?;
        Some(Listed { bytes: bytes.parse().ok()?, name: name.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

/// Quotes a word for a shell.
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
                // Dropping the child kills it.
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

    fn list<'a>(&'a self, folder: &'a str, max: usize) -> Later<'a, Vec<Listed>> {
        Box::pin(async move {
            // A file that cannot be read is an error, unless it was removed meanwhile.
            let script = format!(
                "test -d \"$1\" || exit {MISSING}; cd -- \"$1\" >/dev/null || exit 1; for file in *; do \
                 test -f \"$file\" || continue; \
                 bytes=$(wc -c < \"$file\") || {{ test -f \"$file\" && exit 1; continue; }}; \
                 printf '%s %s\\n' \"$bytes\" \"$file\"; done"
            );
            let mut child = self.start(&script, folder, Stdio::null(), Stdio::piped())?;
            let Some(output) = child.stdout.take() else {
                return Err(std::io::Error::other("ssh: no output").into());
            };
            let most = (max as u64).saturating_mul(LISTED_MAX_BYTES);
            let mut text = Vec::new();
            // Dropping the child kills it if it has more output.
            let copied = async {
                let bytes = output.take(most + 1).read_to_end(&mut text).await?;
                if bytes as u64 > most { Err(Stopped::Larger) } else { Ok(()) }
            };
            let heard = async { Ok(said(&mut child).await?) };
            let said = match tokio::try_join!(copied, heard) {
                Ok(((), said)) => said,
                Err(Stopped::Larger) => return Err(too_many(max)),
                Err(Stopped::Failed(error)) => return Err(error.into()),
            };
            let status = child.wait().await?;
            match status.code() {
                Some(0) => {}
                Some(MISSING) => return Ok(Vec::new()),
                _ => return Err(failed(status, &said).into()),
            }
            let listed = listed(&String::from_utf8_lossy(&text));
            if listed.len() > max { Err(too_many(max)) } else { Ok(listed) }
        })
    }

    fn put<'a>(&'a self, name: &'a str, from: &'a mut File, bytes: u64) -> Later<'a, ()> {
        Box::pin(async move {
            // If the connection breaks, cat ends as if it had read everything. So the data is
            // written to another name, and its size is checked before the rename.
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
    fn sizes_and_names() {
        let file = |name: &str, bytes| Listed { name: name.into(), bytes };
        let found = listed("  12 a b\n0 c\nnonsense\nx y\n");
        assert_eq!(found, [file("a b", 12), file("c", 0)]);
        assert_eq!(literal(Path::new("/50%/key")), "/50%%/key");
    }

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
