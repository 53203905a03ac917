//! The error of this crate, with what the edge needs for exit codes and hints.

use crate::{
    block_device::BlockDeviceError, elements::ElementError, hooks::HookError, options::OptionError,
    source::SourceError,
};

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum DibError {
    /// An option's value.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The elements.
    #[error(transparent)]
    Element(#[from] ElementError),
    /// Their hooks.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The disk layout.
    #[error(transparent)]
    BlockDevice(#[from] BlockDeviceError),
    /// diskimage-builder itself.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file that cannot be read.
    #[error(transparent)]
    File(#[from] rooted::Error),
}

/// What kind of fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DibErrorKind {
    /// The command line says something impossible.
    Usage,
    /// The elements or their configuration are wrong.
    Recipe,
    /// The network or the package index does not deliver.
    Fetch,
    /// The host's files cannot be read or written.
    Io,
}

impl DibError {
    /// What kind of fault it is.
    #[must_use]
    pub fn kind(&self) -> DibErrorKind {
        match self {
            Self::Option(_) => DibErrorKind::Usage,
            Self::Element(ElementError::Unreadable(_)) | Self::File(_) => DibErrorKind::Io,
            Self::Hook(HookError::File(_)) => DibErrorKind::Io,
            Self::Element(_) | Self::Hook(_) | Self::BlockDevice(_) => DibErrorKind::Recipe,
            Self::Source(error) => error.kind(),
        }
    }

    /// The same fault in virt-dib's words, which scripts around it look for, when
    /// they differ from diskimage-builder's.
    #[must_use]
    pub fn virt_dib_words(&self) -> Option<String> {
        match self {
            Self::Element(ElementError::Missing(name)) => Some(format!("element {name} not found")),
            Self::Element(ElementError::NoOperatingSystem) => {
                Some("please include an operating system element".into())
            }
            Self::Element(ElementError::AlreadyProvided(conflicts)) => {
                let lines = conflicts
                    .iter()
                    .map(|(name, by)| format!("\n  {name}: already provided by {}", by.join(" ")));
                let first = "following elements are already provided by another element:";
                Some(std::iter::once(first.to_owned()).chain(lines).collect())
            }
            Self::Hook(HookError::Duplicate(hooks)) => {
                let lines = hooks
                    .iter()
                    .map(|hook| format!("\n{} in: {}", hook.path, hook.elements.join(" ")));
                let first = "There is a duplicated script in your elements:";
                Some(std::iter::once(first.to_owned()).chain(lines).collect())
            }
            _ => None,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Element(ElementError::Missing(name)) if name == "block-device" => {
                Some("add one of block-device-mbr, block-device-gpt, block-device-efi".into())
            }
            Self::Element(ElementError::LeadsOut(_)) => Some(
                "put a copy in its place, or name the directory that it leads to with `-p`".into(),
            ),
            Self::Element(ElementError::Missing(_)) => Some(
                "elements are searched in `-p`, in ELEMENTS_PATH and in diskimage-builder itself"
                    .into(),
            ),
            Self::Element(ElementError::NoOperatingSystem) => {
                Some("for example `debian-minimal` or `ubuntu-minimal`".into())
            }
            Self::Element(ElementError::ProvidedTwice { .. }) => {
                Some("leave one of the two out".into())
            }
            Self::Element(ElementError::AlreadyProvided(_)) => {
                Some("leave these elements out of the command line".into())
            }
            Self::Hook(HookError::Duplicate(_)) => {
                Some("leave one of the elements out, or the script with `--exclude-script`".into())
            }
            Self::Option(OptionError::Size(_)) => {
                Some("a number with one of the units b, K, M, G: `--size 5G`".into())
            }
            Self::BlockDevice(BlockDeviceError::Directory { path, .. }) => Some(format!(
                "`--envvar DIB_BLOCK_DEVICE_CONFIG=file://{}` takes the configuration as yours",
                path.display()
            )),
            Self::Source(error) => error.hint(),
            _ => None,
        }
    }
}
