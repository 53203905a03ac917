//! What a place of files can do, whichever way it is reached.

use std::{fs::File, future::Future, pin::Pin};

use crate::{Listed, error::Failure};

/// The answer of a backend, later.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// The outcome of getting a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// The file does not exist.
    Missing,
    /// The whole file was read; its size in bytes.
    Whole(u64),
    /// The file is larger than was allowed; what was read of it is of no use.
    Larger,
}

/// Files in a place, by name.
pub(crate) trait Backend: std::fmt::Debug + Send + Sync {
    /// Whether a file exists.
    fn exists<'a>(&'a self, name: &'a str) -> Later<'a, bool>;

    /// Reads a file into another one, and at most one byte more than `max_bytes`: the
    /// writers of the place decide how large its files are.
    fn get<'a>(&'a self, name: &'a str, to: &'a mut File, max_bytes: u64) -> Later<'a, Got>;

    /// The files of a folder; none when there is no such folder. More than `max` are an
    /// error: the writers of the place decide how many there are.
    fn list<'a>(&'a self, folder: &'a str, max: usize) -> Later<'a, Vec<Listed>>;

    /// Writes a file, whole or not at all.
    fn put<'a>(&'a self, name: &'a str, from: &'a mut File, bytes: u64) -> Later<'a, ()>;
}

/// That a folder has more files than are listed.
pub(crate) fn too_many(max: usize) -> Failure {
    format!("it has more than {max} files").into()
}
