//! Words of a command line as text, and options as words.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStringExt,
};

pub(super) fn joined(long: &str, value: &[u8]) -> OsString {
    let mut arg = format!("--{long}=").into_bytes();
    arg.extend_from_slice(value);
    OsString::from_vec(arg)
}

pub(super) fn printable(arg: &OsStr) -> String {
    arg.to_string_lossy().into_owned()
}

/// Returns the name of the option in a normalised word.
pub(super) fn long_name(word: &OsString) -> String {
    before_equals(&printable(word)).trim_start_matches('-').to_owned()
}

pub(super) fn before_equals(typed: &str) -> String {
    typed.split('=').next().unwrap_or_default().to_owned()
}
