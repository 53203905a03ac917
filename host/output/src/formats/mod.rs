//! The formats, one file each: a descriptor and a function that writes; and the list of all.

pub(crate) mod docker;
pub(crate) mod qcow2;
pub(crate) mod raw;
pub(crate) mod squashfs;
pub(crate) mod tar;
pub(crate) mod tar_zst;
pub(crate) mod tgz;
pub(crate) mod vdi;
pub(crate) mod vhd;
pub(crate) mod vhdx;
pub(crate) mod vmdk;

use crate::{OutputError, Result, format::Format};

/// All formats, in the order of `--help`.
pub const FORMATS: &[&Format] = &[
    &qcow2::FORMAT,
    &raw::FORMAT,
    &vhd::DYNAMIC,
    &vhd::FIXED,
    &vhdx::FORMAT,
    &vmdk::SPARSE,
    &vmdk::STREAM,
    &vdi::FORMAT,
    &tar::FORMAT,
    &tgz::FORMAT,
    &tar_zst::FORMAT,
    &squashfs::FORMAT,
    &docker::DOCKER,
    &docker::OCI,
];

/// Looks up a format by name.
#[must_use]
pub fn format(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|f| f.name == name)
}

/// The error for a name that no format has.
#[must_use]
pub fn unknown_format(name: &str) -> OutputError {
    let known = FORMATS.iter().map(|format| format.name).collect::<Vec<_>>().join(", ");
    OutputError::InvalidFormat { name: name.to_owned(), known }
}

/// Parses the value of `--formats`: names separated by commas. Duplicates are ignored.
///
/// # Errors
/// Fails on an unknown or empty name.
pub fn parse_formats(list: &str) -> Result<Vec<&'static Format>> {
    let mut formats: Vec<&'static Format> = Vec::new();
    for name in list.split(',') {
        let found = format(name).ok_or_else(|| unknown_format(name))?;
        if !formats.iter().any(|f| f.name == found.name) {
            formats.push(found);
        }
    }
    Ok(formats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_formats_and_their_exact_errors() {
        let names = |list| parse_formats(list).unwrap().iter().map(|f| f.name).collect::<Vec<_>>();
        assert_eq!(names("qcow2,raw"), ["qcow2", "raw"]);
        assert_eq!(names("raw,qcow2,raw"), ["raw", "qcow2"]);
        for (list, bad) in [("bogus", "bogus"), ("", ""), (",", ""), ("raw,", ""), ("RAW", "RAW")] {
            let error = parse_formats(list).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid format ‘{bad}’ in --formats"));
            assert!(error.hint().unwrap().contains("qcow2, raw"));
        }
    }

    #[test]
    fn names_and_suffixes_are_distinct() {
        for (index, one) in FORMATS.iter().enumerate() {
            for other in &FORMATS[..index] {
                assert_ne!(one.name, other.name);
                assert_ne!(one.suffix, other.suffix, "{} and {}", one.name, other.name);
            }
        }
    }
}
