//! The interface to the files of a place, however it is accessed.

use std::{fs::File, future::Future, pin::Pin};

use crate::{Listed, error::Failure};

/// A future with the result of a backend.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// The outcome of reading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// The file does not exist.
    Missing,
    /// The whole file was read; its size in bytes.
    Whole(u64),
    /// The file is larger than was allowed; the data that was read is not usable.
    Larger,
}

/// Access to the files of a place by name.
pub(crate) trait Backend: std::fmt::Debug + Send + Sync {
    /// Whether a file exists.
    fn exists<'a>(&'a self, name: &'a str) -> Later<'a, bool>;

    /// Reads a file into `to`, and writes at most `max_bytes` there: the writers of the place
    /// control the size of its files.
    fn get<'a>(&'a self, name: &'a str, to: &'a mut File, max_bytes: u64) -> Later<'a, Got>;

    /// Lists the files of a directory; empty if it does not exist. More than `max` files are an
    /// error: the writers of the place control their number.
    fn list<'a>(&'a self, folder: &'a str, max: usize) -> Later<'a, Vec<Listed>>;

    /// Writes a file of `bytes` bytes, completely or not at all.
    fn put<'a>(&'a self, name: &'a str, from: &'a mut File, bytes: u64) -> Later<'a, ()>;
}

/// Returns the error for a directory with more than `max` files.
pub(crate) fn too_many(max: usize) -> Failure {
    format!("it has more than {max} files").into()
}
