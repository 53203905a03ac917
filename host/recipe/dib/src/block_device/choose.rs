//! Chooses the block-device configuration of a build.

use std::{fs, path::PathBuf};

use super::BlockDeviceError;
use crate::elements::Element;

/// Where a configuration came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOrigin {
    /// A file that `DIB_BLOCK_DEVICE_CONFIG=file://…` names.
    File(PathBuf),
    /// The text of `DIB_BLOCK_DEVICE_CONFIG` itself.
    Variable,
    /// A file of an element.
    Element(PathBuf),
    /// The built-in fallback: one filesystem on the whole disk.
    Fallback,
}

/// A configuration with its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigText {
    /// Where it came from.
    pub origin: ConfigOrigin,
    /// The YAML.
    pub text: String,
}

/// One filesystem on the whole disk, without a partition table.
const FALLBACK: &str = "\
- local_loop:
    name: image0
    mkfs:
      name: mkfs_root
      mount:
        mount_point: /
        fstab:
          options: defaults
          fsck-passno: 1
";

/// Finds the configuration: first the variable, then the first element (by name, so that two runs
/// agree) with a file for the architecture or a default file, then the fallback.
pub(crate) fn choose(
    variable: Option<&str>,
    elements: &[Element],
    arch: &str,
) -> Result<ConfigText, BlockDeviceError> {
    if let Some(text) = variable.filter(|text| !text.is_empty()) {
        return match text.strip_prefix("file://") {
            Some(path) => read(ConfigOrigin::File(path.into()), path.into()),
            None => Ok(ConfigText { origin: ConfigOrigin::Variable, text: text.to_owned() }),
        };
    }
    // Two distributions name this architecture differently; elements have one file for both.
    let file_arch = if matches!(arch, "ppc64el" | "ppc64le") { "ppc64el" } else { arch };
    let names = [format!("block-device-{file_arch}.yaml"), "block-device-default.yaml".to_owned()];
    for element in elements {
        for name in &names {
            match element.text(name) {
                Ok(Some((path, text))) => {
                    return Ok(ConfigText { origin: ConfigOrigin::Element(path), text });
                }
                Ok(None) => {}
                Err(error) => {
                    let (path, reason) = (element.path.join(name), chain(&error));
                    return Err(BlockDeviceError::Unreadable { path, reason });
                }
            }
        }
    }
    Ok(ConfigText { origin: ConfigOrigin::Fallback, text: FALLBACK.to_owned() })
}

fn chain(error: &rooted::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn read(origin: ConfigOrigin, path: PathBuf) -> Result<ConfigText, BlockDeviceError> {
    match fs::read_to_string(&path) {
        Ok(text) => Ok(ConfigText { origin, text }),
        Err(error) => Err(BlockDeviceError::Unreadable { path, reason: error.to_string() }),
    }
}
