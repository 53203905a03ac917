//! The guest agent's binary for each architecture: embedded in vbuild, or found beside it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use machine::MachineArchitecture;
use plan::Digest;

use crate::error::{CommandError, Kind};

/// The agents that are embedded in vbuild, by Debian's name of their architecture, each as a zstd
/// frame; see build.rs.
static EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/agents.rs"));

/// Returns the variable that names a file to use instead, for development of the agent.
fn overriding(architecture: MachineArchitecture) -> &'static str {
    match architecture {
        MachineArchitecture::Amd64 => "VBUILD_AGENT",
        MachineArchitecture::Arm64 => "VBUILD_AGENT_ARM64",
    }
}

/// Returns the path and the digest of the agent for an architecture.
///
/// # Errors
/// Fails if no agent is found, or the embedded one cannot be written to the cache.
pub(crate) fn locate(
    cache_dir: &Path,
    architecture: MachineArchitecture,
) -> Result<(PathBuf, Digest), CommandError> {
    let variable = std::env::var_os(overriding(architecture));
    if let Some(path) = variable.filter(|path| !path.is_empty()) {
        return read(PathBuf::from(path));
    }
    let name = architecture.architecture().debian();
    if let Some((_, frame)) = EMBEDDED.iter().find(|(embedded, _)| *embedded == name) {
        let bytes = zstd::decode_all(*frame).map_err(|error| {
            CommandError::new(Kind::Host, error).context("the guest agent inside vbuild is damaged")
        })?;
        let digest = Digest::of(&bytes);
        let path = cache_dir.join("agent").join(digest.to_string()).join("vbuild-agent");
        unpack(&path, &bytes, digest).map_err(|error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot write the guest agent to {}", path.display()))
        })?;
        return Ok((path, digest));
    }
    let candidates = beside(architecture);
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => read(path.clone()),
        None => Err(CommandError::message(
            Kind::Host,
            format!(
                "the guest agent for {name} is missing: looked for {}",
                candidates.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
            ),
        )
        .hint(match architecture {
            MachineArchitecture::Amd64 => {
                "build it with `cargo agent`, or build vbuild with `sh tests/build.sh`"
            }
            MachineArchitecture::Arm64 => {
                "build it with `sh tests/agent.sh arm64`, which names what it needs"
            }
        })),
    }
}

/// Returns where the agent may be if it is not embedded: beside the installed binary, or in cargo's
/// own directories.
fn beside(architecture: MachineArchitecture) -> Vec<PathBuf> {
    let Some(dir) = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned))
    else {
        return Vec::new();
    };
    let static_build = format!("{}/release/vbuild-agent", architecture.rust_target());
    let name = match architecture.is_of_host() {
        true => "vbuild-agent".to_owned(),
        false => format!("vbuild-agent-{architecture}"),
    };
    let mut found = vec![dir.join(&name), dir.join("../lib/vbuild").join(&name)];
    // target/{debug,release}/ and target/debug/deps/ for tests.
    found.extend(dir.ancestors().skip(1).take(2).map(|target| target.join(&static_build)));
    // A dynamically linked agent cannot run as PID 1 of an empty initramfs, and in cargo's
    // directories the agent beside the binary is dynamically linked.
    if dir.ancestors().take(3).any(|ancestor| ancestor.join(".fingerprint").exists()) {
        found.remove(0);
    }
    found
}

fn read(path: PathBuf) -> Result<(PathBuf, Digest), CommandError> {
    let bytes = fs::read(&path).map_err(|error| {
        CommandError::new(Kind::Host, error)
            .context(format!("cannot read the guest agent {}", path.display()))
    })?;
    Ok((path, Digest::of(&bytes)))
}

/// Writes the agent unless it exists already; another vbuild may do the same. A guest runs it as
/// its first process, so an existing file is used only if its content is right and it is not
/// reached through a link.
fn unpack(path: &Path, bytes: &[u8], digest: Digest) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    if found(directory, path, bytes.len() as u64).is_ok_and(|found| found == digest) {
        return Ok(());
    }
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut file, bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
    file.persist(path)?;
    Ok(())
}

/// Returns the digest of the existing agent.
fn found(directory: &Path, path: &Path, length: u64) -> io::Result<Digest> {
    let name = Path::new(path.file_name().unwrap_or_default());
    let mut bytes = Vec::new();
    let file = rooted::Dir::open(directory)?.file(name)?;
    // Reads one byte more, so that a longer file has another digest.
    io::Read::read_to_end(&mut io::Read::take(file, length + 1), &mut bytes)?;
    Ok(Digest::of(&bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_agent_counts_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent/vbuild-agent");
        let write = || unpack(&path, b"the agent", Digest::of(b"the agent")).unwrap();
        write();
        // One of the same length, a longer one, a link to another file.
        for other in ["THE AGENT", "the agent and more"] {
            fs::write(&path, other).unwrap();
            write();
            assert_eq!(fs::read(&path).unwrap(), b"the agent");
        }
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, "the agent").unwrap();
        fs::remove_file(&path).unwrap();
        symlink(&elsewhere, &path).unwrap();
        write();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read(&elsewhere).unwrap(), b"the agent");
    }
}
