//! `--formats`: the names of the outputs, and what is done with them.

use std::fmt::Write as _;

use clap::ValueEnum;

use super::values::{InvalidValue, invalid};

/// Every format that can be asked for, sorted, as `--machine-readable` lists
/// them.
pub(crate) fn format_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = output::FORMATS.iter().map(|format| format.name).collect();
    names.sort_unstable();
    names
}

/// The manual of `--formats`: what each is.
pub(crate) fn manual() -> String {
    let mut text = "What to write: comma-separated; the last of several options counts".to_owned();
    for format in output::FORMATS {
        let _ = write!(text, "\n\n{}: {}", format.name, format.about);
    }
    text
}

/// Formats in the order of the command line, without repetitions.
#[derive(Debug, Clone)]
pub(crate) struct Formats(pub(crate) Vec<&'static output::Format>);

impl Formats {
    /// The names of the formats.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|format| format.name)
    }
}

impl PartialEq for Formats {
    /// A format is its name.
    fn eq(&self, other: &Self) -> bool {
        self.names().eq(other.names())
    }
}

/// Parses a comma-separated list.
///
/// # Errors
/// An item that names no format; the empty item is one.
pub(crate) fn parse(text: &str) -> Result<Formats, InvalidValue> {
    output::parse_formats(text).map(Formats).map_err(|error| invalid(error.to_string()))
}

/// Programs that run containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContainerEngine {
    /// Docker
    Docker,
    /// Podman
    Podman,
}

impl ContainerEngine {
    /// The name of the engine's command.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// Kinds of checksum files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ChecksumKind {
    /// FILE.md5
    Md5,
    /// FILE.sha256
    Sha256,
    /// FILE.sha512
    Sha512,
}

impl ChecksumKind {
    /// The same in the plan's words.
    pub(crate) fn into_plan(self) -> plan::Checksum {
        match self {
            Self::Md5 => plan::Checksum::Md5,
            Self::Sha256 => plan::Checksum::Sha256,
            Self::Sha512 => plan::Checksum::Sha512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let names = |list: &str| -> Vec<&str> {
            parse(list).unwrap().0.iter().map(|format| format.name).collect()
        };
        assert_eq!(names("qcow2,raw,qcow2"), ["qcow2", "raw"]);
        let text = |list: &str| parse(list).unwrap_err().to_string();
        assert_eq!(text("bogus"), "invalid format ‘bogus’ in --formats");
        assert_eq!(text(""), "invalid format ‘’ in --formats");
        assert_eq!(text(","), "invalid format ‘’ in --formats");
        assert_eq!(text("raw,"), "invalid format ‘’ in --formats");
    }

    #[test]
    fn the_list_of_names_is_sorted() {
        assert!(format_names().is_sorted());
        assert!(format_names().contains(&"qcow2"));
    }
}
