//! Writes the seeds of cloud-init: the generated files of an artifact as an ISO9660 image, a FAT
//! image or a directory.

use std::path::Path;

use b9::{
    LogLevel,
    seed::{SeedError, SeedFile, iso, vfat},
    types::CloudInitType,
};

use super::{host_files::HostFiles, outputs, recipe::Artifact, turns::Voice};
use crate::error::{CommandError, Kind};

/// Writes the seeds of an artifact.
///
/// # Errors
/// Fails if the files do not fit into a seed, or if a seed cannot be written.
pub(super) fn write(
    artifact: &Artifact,
    types: &[CloudInitType],
    path: &str,
    host: &HostFiles,
    voice: &Voice,
) -> Result<(), CommandError> {
    let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy();
    for kind in types {
        match kind {
            CloudInitType::Iso => {
                image(artifact, &format!("{path}.iso"), iso, host)?;
                voice.say(LogLevel::Info, &format!("CREATED CI_ISO IMAGE: '{name}'"));
            }
            CloudInitType::Vfat => {
                image(artifact, &format!("{path}.vfat"), vfat, host)?;
                voice.say(LogLevel::Info, &format!("CREATED CI_VFAT IMAGE: '{name}'"));
            }
            CloudInitType::Dir => {
                directory(artifact, Path::new(path), host)?;
                voice.say(LogLevel::Info, &format!("CREATED CI_DIR: '{name}'"));
            }
        }
    }
    Ok(())
}

/// Checks that the seeds of an artifact may be written.
///
/// # Errors
/// Fails if the recipe may not write to their path.
pub(super) fn check(
    types: &[CloudInitType],
    path: &str,
    host: &HostFiles,
) -> Result<(), CommandError> {
    types.iter().try_for_each(|_| host.output("the seed", Path::new(path)).map(drop))
}

fn image(
    artifact: &Artifact,
    path: &str,
    make: impl FnOnce(&[SeedFile]) -> Result<Vec<u8>, SeedError>,
    host: &HostFiles,
) -> Result<(), CommandError> {
    let path = host.output("the seed", Path::new(path))?;
    let failed = |error: CommandError| error.context(format!("cannot make `{}`", path.display()));
    let bytes = make(&artifact.generated).map_err(|e| failed(CommandError::new(Kind::Usage, e)))?;
    outputs::write(&path, &bytes).map_err(|e| failed(CommandError::new(Kind::Host, e)))
}

/// Writes the seed as a directory. Other files in the directory are kept.
fn directory(artifact: &Artifact, path: &Path, host: &HostFiles) -> Result<(), CommandError> {
    let failed = |path: &Path, error: std::io::Error| {
        CommandError::new(Kind::Host, error).context(format!("cannot write `{}`", path.display()))
    };
    let top = host.output("the seed", path)?;
    rooted::make_user_directories(&top).map_err(|error| failed(&top, error))?;
    for file in &artifact.generated {
        // Each path is checked on its own, because a link in the directory may lead elsewhere.
        let path = host.output("the seed's file", &path.join(&file.path))?;
        outputs::write_with_mode(&path, &file.bytes, file.mode)
            .map_err(|error| failed(&path, error))?;
    }
    Ok(())
}
