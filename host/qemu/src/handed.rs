//! Descriptors that QEMU inherits or receives: it opens no drive by path.
//!
//! QEMU's name of a file passed as a descriptor is `/dev/fdset/N`: a set of descriptors of one file
//! with different access modes. QEMU uses the matching one when it opens the name; it reopens the
//! name when an image under a new layer becomes read-only.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{args::Args, process::LAST_STANDARD_FD};

/// The number of a descriptor set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetId(pub(crate) u32);

impl SetId {
    /// QEMU's name of the set.
    pub(crate) fn path(self) -> String {
        format!("/dev/fdset/{}", self.0)
    }
}

/// File names of the sets, for messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(BTreeMap<SetId, PathBuf>);

impl Names {
    /// Adds a file with a new number.
    pub(crate) fn add(&mut self, path: &Path) -> SetId {
        let number = self.0.keys().last().map_or(1, |last| last.0 + 1);
        self.0.insert(SetId(number), path.to_owned());
        SetId(number)
    }

    /// Replaces QEMU's names in a message by the file names.
    pub(crate) fn with_file_names(&self, text: &str) -> String {
        // The longest number first, because the name of the first set is a prefix of the tenth's.
        self.0.iter().rev().fold(text.to_owned(), |text, (set, path)| {
            text.replace(&set.path(), &path.display().to_string())
        })
    }
}

/// Descriptors that a new QEMU inherits beside its standard streams, in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    descriptors: Vec<OwnedFd>,
    sets: Vec<(i32, SetId)>,
    /// File names of the sets.
    pub(crate) names: Names,
}

impl Handed {
    /// Adds a descriptor and returns its number in QEMU.
    pub(crate) fn give(&mut self, descriptor: OwnedFd) -> i32 {
        self.descriptors.push(descriptor);
        let count = i32::try_from(self.descriptors.len()).unwrap_or(i32::MAX);
        LAST_STANDARD_FD.saturating_add(count)
    }

    /// Adds a file that QEMU uses as an image.
    ///
    /// # Errors
    /// Fails if the file cannot be reopened.
    pub(crate) fn give_image(
        &mut self,
        path: &Path,
        file: File,
        writable: bool,
    ) -> io::Result<SetId> {
        let set = self.names.add(path);
        if writable {
            let reader = read_only(&file)?;
            let number = self.give(reader.into());
            self.sets.push((number, set));
        }
        let number = self.give(file.into());
        self.sets.push((number, set));
        Ok(set)
    }

    /// Adds the arguments that create the sets.
    pub(crate) fn arguments(&self, args: &mut Args) {
        for (number, set) in &self.sets {
            args.pair("-add-fd", format!("fd={number},set={}", set.0));
        }
    }

    /// Returns the descriptors.
    pub(crate) fn into_descriptors(self) -> Vec<OwnedFd> {
        self.descriptors
    }
}

/// Reopens a file read-only.
///
/// # Errors
/// Fails if it cannot be opened.
pub(crate) fn read_only(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_numbers_and_qemus_words_their_names() {
        let mut handed = Handed::default();
        let (reader, writer) = io::pipe().unwrap();
        assert_eq!((handed.give(reader.into()), handed.give(writer.into())), (3, 4));
        for number in 1..=10 {
            let file = tempfile::tempfile().unwrap();
            let path = PathBuf::from(format!("/disks/{number}"));
            let set = handed.give_image(&path, file, number == 2).unwrap();
            assert_eq!(set, SetId(number));
        }
        let mut args = Args(Vec::new());
        handed.arguments(&mut args);
        let text = crate::args::one_per_line(&args.0);
        assert!(text.starts_with("-add-fd fd=5,set=1\n-add-fd fd=6,set=2\n-add-fd fd=7,set=2\n"));
        let words = handed.names.with_file_names("using the image [/dev/fdset/10]? /dev/fdset/1");
        assert_eq!(words, "using the image [/disks/10]? /disks/1");
        assert_eq!(handed.into_descriptors().len(), 13);
    }
}
