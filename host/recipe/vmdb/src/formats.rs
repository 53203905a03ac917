//! Output formats by the suffixes of file names.

use std::path::PathBuf;

/// File name suffixes and the disk formats that they select. A test of the program compares them
/// with the formats of `output`.
pub const FORMATS: &[(&str, &str)] = &[
    ("qcow2", "qcow2"),
    ("vmdk", "vmdk"),
    ("stream.vmdk", "vmdk-stream"),
    ("vhd", "vhd"),
    ("fixed.vhd", "vhd-fixed"),
    ("vpc", "vhd"),
    ("vhdx", "vhdx"),
    ("vdi", "vdi"),
    ("raw", "raw"),
    ("img", "raw"),
];

/// A requested output format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatChoice {
    /// The name of the format.
    pub name: String,
    /// The suffix of the output's name, without the dot.
    pub suffix: String,
    /// Whether it is made from the file tree instead of the disk.
    pub is_of_tree: bool,
}

/// The format that the suffix of a path selects, and the path without the suffix. Unknown suffixes
/// select a raw image.
#[must_use]
pub fn format_of(path: &str) -> (&'static str, &str) {
    let known = FORMATS.iter().filter_map(|(ending, format)| {
        let stem = path.strip_suffix(ending)?.strip_suffix('.')?;
        (!stem.is_empty() && !stem.ends_with('/')).then_some((*format, stem))
    });
    // `x.fixed.vhd` also matches `.vhd`; the longest suffix wins.
    known.min_by_key(|(_, stem)| stem.len()).unwrap_or(("raw", path))
}

/// The path of an output format: the output's own name if its suffix selects this format, or if it
/// ends with the format's suffix and the format is the only one; otherwise the name with the
/// format's suffix.
#[must_use]
pub fn file_of(output: &str, format: &FormatChoice, is_only: bool) -> PathBuf {
    let (own, stem) = format_of(output);
    let ending = format.suffix.rsplit('.').next().unwrap_or_default();
    let ends_so = output.strip_suffix(ending).is_some_and(|stem| stem.ends_with('.'));
    if own == format.name || (is_only && ends_so) {
        return PathBuf::from(output);
    }
    PathBuf::from(format!("{stem}.{}", format.suffix))
}
