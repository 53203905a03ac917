//! The sizes of an image during the build: its disk must have room for the largest.

use crate::images::SizeChange;

/// The sizes of an image, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sizes {
    /// The initial size.
    pub(super) first: u64,
    /// The size before the resize of the destination, if known before the build.
    pub(super) middle: Option<u64>,
    /// The final size, if known before the build.
    pub(super) last: Option<u64>,
    /// The maximum size.
    pub(super) largest: u64,
}

impl Sizes {
    /// Computes the sizes from the resizes of source and destination.
    pub(super) fn new(
        first: u64,
        source: Option<SizeChange>,
        destination: Option<SizeChange>,
    ) -> Self {
        let mut it = Self { first, middle: None, last: Some(first), largest: first };
        let mut most = first;
        for (change, is_source) in [(source, true), (destination, false)] {
            if let Some(change) = change {
                (it.last, most) = match change {
                    SizeChange::Container(bytes) | SizeChange::Filesystem(bytes) => {
                        (Some(bytes), bytes)
                    }
                    SizeChange::Minimum => (None, most),
                    SizeChange::MinimumPlus(bytes) => {
                        (None, most.next_multiple_of(1024).saturating_add(bytes))
                    }
                };
                it.largest = it.largest.max(most);
            }
            if is_source {
                it.middle = it.last;
            }
        }
        it
    }
}

/// A change in the syntax of the tool `resize`.
pub(super) fn word(change: SizeChange) -> String {
    match change {
        SizeChange::Container(bytes) => format!("container:{bytes}"),
        SizeChange::Filesystem(bytes) => format!("filesystem:{bytes}"),
        SizeChange::Minimum => "minimum".into(),
        SizeChange::MinimumPlus(bytes) => format!("minimum+:{bytes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_room_for_the_largest() {
        let sizes = |source, destination| Sizes::new(100 << 20, source, destination);
        let grown = sizes(Some(SizeChange::Filesystem(300 << 20)), Some(SizeChange::Minimum));
        assert_eq!((grown.middle, grown.last, grown.largest), (Some(300 << 20), None, 300 << 20));
        let cut = sizes(None, Some(SizeChange::Filesystem(50 << 20)));
        assert_eq!(
            (cut.middle, cut.last, cut.largest),
            (Some(100 << 20), Some(50 << 20), 100 << 20)
        );
        let more = sizes(Some(SizeChange::Minimum), Some(SizeChange::MinimumPlus(64 << 20)));
        assert_eq!((more.middle, more.last, more.largest), (None, None, 164 << 20));
        let kept = sizes(None, None);
        assert_eq!(
            (kept.middle, kept.last, kept.largest),
            (Some(100 << 20), Some(100 << 20), 100 << 20)
        );
    }
}
