//! `--formats`, and the other options whose values are words: container engines and checksums.

use std::fmt::Write as _;

use clap::ValueEnum;

use super::values::{InvalidValue, invalid};

/// Returns the names of all formats, sorted, as `--machine-readable` lists them.
pub(crate) fn format_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = output::FORMATS.iter().map(|format| format.name).collect();
    names.sort_unstable();
    names
}

/// Returns the manual of `--formats`, with a description of each format.
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
    /// Returns the names of the formats.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|format| format.name)
    }
}

impl PartialEq for Formats {
    /// Compares the names, which identify the formats.
    fn eq(&self, other: &Self) -> bool {
        self.names().eq(other.names())
    }
}

/// Parses a comma-separated list of formats.
///
/// # Errors
/// Fails if an item is empty, or not the name of a format.
pub(crate) fn parse(text: &str) -> Result<Formats, InvalidValue> {
    output::parse_formats(text).map(Formats).map_err(|error| invalid(error.to_string()))
}

/// A program that runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContainerEngine {
    /// Docker
    Docker,
    /// Podman
    Podman,
}

impl ContainerEngine {
    /// Returns the name of the engine's command.
    pub(crate) fn command(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// A kind of checksum file.
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
    /// Converts the kind to that of the plan.
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
