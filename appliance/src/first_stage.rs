//! Runs the configuration inside a microVM. This crate specifies what to run; the caller provides
//! the machine as a [`FirstStage`].

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    configure::{self, Line},
    error::Error,
    events::{Event, Events},
};

/// Lines of output kept for an error message.
const TAIL_LINES: usize = 20;
/// Maximum line length of output; longer lines are split, so that a script with endless output
/// cannot fill the memory.
const LINE_MAX_BYTES: usize = 4096;

/// The task of the first stage: boot this kernel with this initramfs, whose `/init` is the agent;
/// mount the image read-write as the root of a chroot with `/proc`, `/sys`, `/dev` and an empty
/// `/run` and `/tmp`; execute the script in it as root; unmount; power off. It needs no network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstStageSpec {
    /// The path of the kernel: an ELF file with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// The path of the initramfs with the agent.
    pub initrd: PathBuf,
    /// The path of the root image: an ext4 filesystem in a raw file.
    pub root_image: PathBuf,
    /// The path of the script inside the image; it takes no arguments.
    pub script: &'static str,
    /// Memory of the machine in MiB.
    pub memory_mib: u32,
    /// Time limit of the script.
    pub timeout: Duration,
}

/// A machine that can run the first stage.
pub trait FirstStage {
    /// Runs the script and returns its exit status, or 128 plus the signal that killed it. Standard
    /// output and standard error are passed to `output` as they arrive, in pieces of any size.
    ///
    /// # Errors
    /// Fails if the machine does not boot, is lost, or exceeds the time limit. A failing script is
    /// not an error.
    fn run(
        &self,
        spec: &FirstStageSpec,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<i32, Box<dyn std::error::Error + Send + Sync>>;
}

/// Runs the first stage and checks its result.
pub(crate) fn run(
    first_stage: &dyn FirstStage,
    spec: &FirstStageSpec,
    events: &mut dyn Events,
) -> Result<(), Error> {
    let mut reader =
        OutputReader { partial: Vec::new(), tail: Vec::new(), total: 0, state: State::Running };
    let status = first_stage
        .run(spec, &mut |bytes| reader.take(bytes, events))
        .map_err(Error::FirstStage)?;
    reader.end_line(events);
    match reader.state {
        State::Done if status == 0 => check_clean(&spec.root_image),
        State::Failed { package, status } => {
            Err(Error::Configure { package, status, tail: reader.tail })
        }
        _ => Err(Error::EndedEarly { status, tail: reader.tail }),
    }
}

enum State {
    Running,
    Failed { package: String, status: String },
    Done,
}

/// Splits output into lines, and converts lines to events.
struct OutputReader {
    partial: Vec<u8>,
    tail: Vec<String>,
    total: usize,
    state: State,
}

impl OutputReader {
    fn take(&mut self, bytes: &[u8], events: &mut dyn Events) {
        for &byte in bytes {
            if byte == b'\n' || self.partial.len() >= LINE_MAX_BYTES {
                self.end_line(events);
            }
            if byte != b'\n' && byte != b'\r' {
                self.partial.push(byte);
            }
        }
    }

    fn end_line(&mut self, events: &mut dyn Events) {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        match configure::parse_line(&line) {
            Line::Step { number: 0, name, .. } => {
                events.event(Event::Step { number: self.total, total: self.total, name });
            }
            Line::Step { number, total, name } => {
                self.total = total;
                events.event(Event::Step { number, total, name });
            }
            Line::Failed { name, status } => {
                self.state = State::Failed { package: name.to_owned(), status: status.to_owned() };
            }
            Line::Done => self.state = State::Done,
            Line::Output(text) => {
                events.event(Event::Output(text));
                if self.tail.len() == TAIL_LINES {
                    self.tail.remove(0);
                }
                self.tail.push(text.to_owned());
            }
        }
    }
}

/// Checks that the image was unmounted, as its superblock records. Otherwise its journal needs a
/// replay, which a read-only drive cannot do.
fn check_clean(image: &Path) -> Result<(), Error> {
    /// The offset of the superblock in the image, and of fields in the superblock.
    const SUPERBLOCK: u64 = 1024;
    const STATE: usize = 0x3a;
    const FEATURE_INCOMPAT: usize = 0x60;
    const STATE_VALID: u8 = 1;
    const INCOMPAT_RECOVER: u8 = 4;
    let mut superblock = [0; 1024];
    File::open(image)
        .and_then(|file| file.read_exact_at(&mut superblock, SUPERBLOCK))
        .map_err(Error::file("cannot read", image))?;
    let valid = superblock[STATE] & STATE_VALID != 0;
    let in_use = superblock[FEATURE_INCOMPAT] & INCOMPAT_RECOVER != 0;
    if valid && !in_use { Ok(()) } else { Err(Error::Unclean { path: image.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Silent;

    struct Fake {
        output: &'static str,
        status: i32,
    }

    impl FirstStage for Fake {
        fn run(
            &self,
            _spec: &FirstStageSpec,
            output: &mut dyn FnMut(&[u8]),
        ) -> Result<i32, Box<dyn std::error::Error + Send + Sync>> {
            // Single bytes, since pieces may end anywhere.
            self.output.bytes().for_each(|byte| output(&[byte]));
            Ok(self.status)
        }
    }

    fn outcome(output: &'static str, status: i32, dirty: bool) -> Result<(), Error> {
        let image = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 4096];
        bytes[1024 + 0x3a] = 1;
        bytes[1024 + 0x60] = if dirty { 4 } else { 0 };
        std::fs::write(image.path(), bytes).unwrap();
        let spec = FirstStageSpec {
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            root_image: image.path().to_owned(),
            script: configure::SCRIPT,
            memory_mib: 1,
            timeout: Duration::from_secs(1),
        };
        run(&Fake { output, status }, &spec, &mut Silent)
    }

    #[test]
    fn a_good_end() {
        outcome("vbuild-step 1 1 a\nhello\nvbuild-done\n", 0, false).unwrap();
    }

    #[test]
    fn a_failing_script_is_named() {
        let error = outcome("one\ntwo\nvbuild-failed sudo 3", 1, false).unwrap_err().to_string();
        assert_eq!(
            error,
            "the configuration of `sudo` failed with status 3; its last words:\none\ntwo"
        );
    }

    #[test]
    fn an_early_end_and_a_dirty_image() {
        assert!(matches!(outcome("x\n", 0, false), Err(Error::EndedEarly { .. })));
        assert!(matches!(outcome("vbuild-done\n", 9, false), Err(Error::EndedEarly { .. })));
        assert!(matches!(outcome("vbuild-done\n", 0, true), Err(Error::Unclean { .. })));
    }
}
