//! The error type of this crate, with its kind (for exit codes) and hints.

use crate::{
    block_device::BlockDeviceError, elements::ElementError, hooks::HookError, options::OptionError,
    source::SourceError,
};

/// Why a plan cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DibError {
    /// The value of an option is invalid.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The elements cannot be determined.
    #[error(transparent)]
    Element(#[from] ElementError),
    /// The hooks cannot be merged.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The disk layout is invalid.
    #[error(transparent)]
    BlockDevice(#[from] BlockDeviceError),
    /// diskimage-builder cannot be found.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] rooted::Error),
}

/// The kind of an error, which determines the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DibErrorKind {
    /// The command line is invalid.
    Usage,
    /// The elements or their configuration are wrong.
    Recipe,
    /// The network or the package index failed.
    Fetch,
    /// A file of the host cannot be read or written.
    Io,
}

impl DibError {
    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> DibErrorKind {
        match self {
            Self::Option(_) => DibErrorKind::Usage,
            Self::Element(ElementError::Unreadable(_)) | Self::File(_) => DibErrorKind::Io,
            Self::Hook(HookError::File(_)) => DibErrorKind::Io,
            Self::Element(_) | Self::Hook(_) | Self::BlockDevice(_) => DibErrorKind::Recipe,
            Self::Source(SourceError::NotALibrary(_)) => DibErrorKind::Usage,
            Self::Source(SourceError::NotADirectory(_)) => DibErrorKind::Recipe,
            Self::Source(SourceError::Cache { .. }) => DibErrorKind::Io,
            Self::Source(_) => DibErrorKind::Fetch,
        }
    }

    /// The message in virt-dib's words, which scripts around it match, if they differ from
    /// diskimage-builder's.
    #[must_use]
    pub fn virt_dib_words(&self) -> Option<String> {
        match self {
            Self::Element(ElementError::Missing { name, .. }) => {
                Some(format!("element {name} not found"))
            }
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

    /// Hints: background and remedies for the user.
    #[must_use]
    pub fn hints(&self) -> Vec<String> {
        if let Self::Element(error @ ElementError::Missing { .. }) = self {
            return hints_for_missing(error);
        }
        self.hint().into_iter().collect()
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Element(ElementError::LeadsOut(_)) => Some(
                "put a copy in its place, or name the directory that it leads to with `-p`".into(),
            ),
            Self::Element(ElementError::NoOperatingSystem) => {
                Some("for example `debian-minimal` or `ubuntu-minimal`".into())
            }
            Self::Element(ElementError::ProvidedTwice { by, too: (too, needed_by), .. }) => {
                let because = needed_by.as_ref().map(|by| format!(", which {by} depends on,"));
                let by = by.join(" ");
                Some(format!("{too}{} provides it too: leave {by} or {too} out", because.unwrap_or_default()))
            }
            Self::Element(ElementError::AlreadyProvided(_)) => {
                Some("leave these elements out of the command line".into())
            }
            Self::Hook(HookError::Duplicate(_)) => {
                Some("leave one of the elements out, or the script with `--exclude-script`".into())
            }
            Self::Hook(HookError::LineEnds(_)) => {
                Some("the files have line ends of Windows; `dos2unix FILE` or `sed -i 's/\\r$//' FILE` mends them".into())
            }
            Self::BlockDevice(error) => error.hint(),
            Self::Source(error) => error.hint(),
            _ => None,
        }
    }
}

fn hints_for_missing(error: &ElementError) -> Vec<String> {
    let ElementError::Missing { name, needed_by, no_directories, similar } = error else {
        return Vec::new();
    };
    let mut hints = Vec::new();
    match needed_by.as_slice() {
        [] => {}
        [one] => hints.push(format!("`element-deps` of the element {one} names it")),
        many => {
            hints.push(format!("`element-deps` of these elements name it: {}", many.join(", ")))
        }
    }
    hints.extend(similar.as_ref().map(|similar| format!("did you mean `{similar}`?")));
    let paths = no_directories.iter();
    hints.extend(paths.map(|path| {
        format!("-p: `{}` is not a directory, so no element was looked for in it", path.display())
    }));
    hints.push(match name.as_str() {
        "block-device" => {
            "add one of block-device-mbr, block-device-gpt, block-device-efi".to_owned()
        }
        _ => "elements are searched in `-p`, in ELEMENTS_PATH and in diskimage-builder itself"
            .to_owned(),
    });
    hints
}
