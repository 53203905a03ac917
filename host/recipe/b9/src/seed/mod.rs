//! cloud-init seeds: the generated files of an artifact as an ISO9660 or a FAT image
//! with the label that NoCloud looks for. The same files give the same bytes.

mod iso;
mod tree;
mod vfat;

pub use iso::iso;
pub use vfat::vfat;

/// The label by which cloud-init finds a seed.
const LABEL: &str = "cidata";

/// A file of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Its path: names and single slashes, no `.` or `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Why a seed cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A name that is a file in one place and a directory in another.
    #[error("`{0}` is a file, and also a directory of other files")]
    Both(String),
    /// More than an image of this kind holds.
    #[error("the files are too large for a seed: {0}")]
    TooLarge(&'static str),
    /// The writer of FAT fails.
    #[error("cannot write the FAT image")]
    Fat(#[source] std::io::Error),
}

#[cfg(test)]
mod tests;
