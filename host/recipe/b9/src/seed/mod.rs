//! cloud-init seeds: the generated files of an artifact as an ISO9660 or FAT image with the label
//! that NoCloud expects. The same files give the same bytes.

mod iso;
mod tree;
mod vfat;

pub use iso::iso;
pub use vfat::vfat;

/// The volume label by which cloud-init finds a seed.
const LABEL: &str = "cidata";

/// A file of a seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedFile {
    /// Its path: names separated by single slashes, without `.` and `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The content of the file.
    pub bytes: Vec<u8>,
}

/// Why a seed cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A path is both a file and a directory.
    #[error("`{0}` is a file, and also a directory of other files")]
    Both(String),
    /// The files exceed the capacity of the format.
    #[error("the files are too large for a seed: {0}")]
    TooLarge(&'static str),
    /// The FAT writer failed.
    #[error("cannot write the FAT image")]
    Fat(#[source] std::io::Error),
}

#[cfg(test)]
mod tests;
