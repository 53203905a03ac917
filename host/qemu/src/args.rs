//! QEMU's arguments, as the command line of a machine is made of them.

use std::ffi::OsString;

/// Options with their values.
#[derive(Debug)]
pub(crate) struct Args(pub(crate) Vec<OsString>);

impl Args {
    pub(crate) fn word(&mut self, word: &str) {
        self.0.push(word.into());
    }

    pub(crate) fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }
}

/// A command line as text for a snapshot, one option per line.
#[cfg(test)]
pub(crate) fn one_per_line(args: &[OsString]) -> String {
    let mut text = String::new();
    for word in args {
        let word = word.to_string_lossy();
        text.push(if word.starts_with('-') { '\n' } else { ' ' });
        text.push_str(&word);
    }
    text.trim_start().to_owned()
}
