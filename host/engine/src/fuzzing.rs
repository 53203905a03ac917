//! The body of this crate's fuzz target, called by `tests/fuzz` and by the unit tests.

/// Parses bytes as reports about a foreign disk: its fstab, and the output of blkid, pvs, lvs and
/// sfdisk in the guest.
pub fn reports(bytes: &[u8]) {
    crate::layout::read_report(bytes);
    crate::layout::read_reports(&String::from_utf8_lossy(bytes));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reports_of_every_kind(
            text in "(UUID=|LABEL=|/dev/|mapper/|vg-lv|/disk/by-|sda1|vda|[a-z0-9=/\\\\|\"., \\n-]|/ ext4 |subvol=){0,60}",
        ) {
            memory_bound::within(1 << 20, || super::reports(text.as_bytes()));
        }
    }
}
