//! Measures the memory of a VM's process, and how much of it belongs to its guest.

use std::{
    fs::File,
    io::{Read, Seek},
    os::fd::OwnedFd,
};

/// The memory mappings of a process. A confined process hides them from all users but root; so it
/// opens the file before and passes it to its parent.
#[derive(Debug)]
pub(crate) struct Mappings(File);

impl Mappings {
    /// Wraps the file of mappings.
    pub(crate) fn of(file: OwnedFd) -> Self {
        Self(file.into())
    }

    /// Resident memory in KiB: the VMM's own, and its guest's; `None` once the process has ended.
    pub(crate) fn resident_kib(&mut self) -> Option<(u64, u64)> {
        let mut smaps = String::new();
        self.0.rewind().ok()?;
        self.0.read_to_string(&mut smaps).ok()?;
        (!smaps.is_empty()).then(|| resident_kib(&smaps))
    }
}

/// Parses the format of proc_pid_smaps(5). The guest's RAM is the mapping with the huge page advice
/// (`hg`), which no other mapping has.
fn resident_kib(smaps: &str) -> (u64, u64) {
    let (mut own, mut guest, mut last) = (0, 0, 0);
    for line in smaps.lines() {
        if let Some(rest) = line.strip_prefix("Rss:") {
            let number = rest.split_whitespace().next();
            last = number.and_then(|number| number.parse().ok()).unwrap_or(0);
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let of_guest = flags.split_whitespace().any(|flag| flag == "hg");
            *(if of_guest { &mut guest } else { &mut own }) += last;
        }
    }
    (own, guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_asked_again() {
        let mut mappings = Mappings::of(File::open("/proc/self/smaps").unwrap().into());
        for _ in 0..2 {
            assert!(mappings.resident_kib().unwrap().0 > 0);
        }
    }

    #[test]
    fn mappings_count_for_whom_they_are() {
        let smaps = "7f0000000000-7f0040000000 rw-p 00000000 00:00 0\n\
            Size:            1048576 kB\n\
            Rss:               61440 kB\n\
            VmFlags: rd wr mr mw me ac nr sd hg\n\
            7f0040000000-7f0040021000 rw-p 00000000 00:00 0 [heap]\n\
            Rss:                 132 kB\n\
            VmFlags: rd wr mr mw me ac sd\n\
            7f0050000000-7f0050001000 r-xp 00000000 fe:00 7 /usr/bin/hg hg\n\
            Rss:                   4 kB\n\
            VmFlags: rd ex mr mw me sd\n";
        assert_eq!(resident_kib(smaps), (136, 61440));
        assert_eq!(resident_kib(""), (0, 0));
    }
}
