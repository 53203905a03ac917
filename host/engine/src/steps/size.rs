//! The size of an image, computed from its tree.

use plan::ImageSize;

use crate::{EngineError, guest::TOOLS, step_context::StepContext};

/// The unit to which the image's size is rounded up, as in diskimage-builder.
const SIZE_UNIT_KIB: u64 = 64;
/// Maximum size of a tree from which the size of an image is computed, in KiB: 16 TiB, the largest
/// file of ext4 with blocks of 4 KiB. Most build directories are on ext4, so the image of a larger
/// tree could not be written there.
const TREE_MAX_KIB: u64 = 16 << 30;

/// Runs the step [`ImageSize`]: measures the tree, and sets the fact with the size of the image.
pub(crate) async fn image_size(
    size: &ImageSize,
    cx: &mut StepContext<'_>,
) -> Result<(), EngineError> {
    let tree_kib = if size.explicit_kib.is_some() {
        0
    } else {
        let measured = cx.session().disk_usage(TOOLS, size.tree.as_str()).await;
        measured.map_err(cx.failed("measure the tree"))?
    };
    let limit_kib = TREE_MAX_KIB;
    let kib = size_kib(size, tree_kib).ok_or(EngineError::ImageSize { tree_kib, limit_kib })?;
    cx.state.facts.insert(size.fact.clone(), kib.to_string());
    Ok(())
}

/// Computes the size of the image in KiB. `None` if the guest reports a tree larger than
/// [`TREE_MAX_KIB`], or if the sum overflows.
fn size_kib(size: &ImageSize, tree_kib: u64) -> Option<u64> {
    if tree_kib > TREE_MAX_KIB {
        return None;
    }
    let base = match (size.explicit_kib, size.extra_kib) {
        (Some(explicit), _) => explicit,
        (None, Some(extra)) => tree_kib.checked_add(extra)?.checked_add(size.journal_kib)?,
        // Divided by 0.6, in whole numbers.
        (None, None) => (tree_kib.checked_mul(10)? / 6).checked_add(size.journal_kib)?,
    };
    let formula = base.checked_add(size.fixed_kib)?;
    let least = match size.explicit_kib {
        Some(_) => 0,
        None => least_kib(size, tree_kib)?,
    };
    formula.max(least).checked_next_multiple_of(SIZE_UNIT_KIB)
}

/// Returns the minimum size of a disk for a tree, in KiB.
fn least_kib(size: &ImageSize, tree_kib: u64) -> Option<u64> {
    /// Space for superblocks and group descriptors, whatever the size.
    const METADATA_KIB: u64 = 2048;
    let content = tree_kib.checked_add(size.journal_kib)?.checked_add(METADATA_KIB)?;
    // With one inode of 256 bytes for each 4 KiB, a sixteenth of an ext4 filesystem is inodes.
    // Bitmaps and a reserve for growing are less than a fortieth.
    let root = content.checked_mul(11)? / 10;
    root.max(size.root_least_kib).checked_add(size.beside_kib)
}

#[cfg(test)]
mod tests {
    use plan::GuestPath;

    use super::*;

    fn size(explicit_kib: Option<u64>, extra_kib: Option<u64>, fixed_kib: u64) -> ImageSize {
        ImageSize {
            tree: GuestPath::new("/t").unwrap(),
            explicit_kib,
            extra_kib,
            journal_kib: 65536,
            fixed_kib,
            beside_kib: 0,
            root_least_kib: 0,
            fact: "f".into(),
        }
    }

    #[test]
    fn the_disk_of_a_tiny_tree_has_room_for_what_is_not_the_tree() {
        assert_eq!(size_kib(&size(None, None, 0), 1000), Some(75_456));
        let beside = ImageSize { beside_kib: 12_288, ..size(None, None, 0) };
        assert_eq!(size_kib(&beside, 1000), Some(87_744));
        let xfs =
            ImageSize { journal_kib: 0, root_least_kib: 307_200, ..size(None, Some(1024), 0) };
        assert_eq!(size_kib(&xfs, 1000), Some(307_200));
        // What the user asks for is not touched.
        assert_eq!(size_kib(&size(Some(64), None, 0), 1000), Some(64));
        assert_eq!(size_kib(&size(None, None, 0), TREE_MAX_KIB).unwrap() % 64, 0);
    }

    #[test]
    fn sizes_follow_the_formula() {
        assert_eq!(size_kib(&size(None, None, 0), 600_000), Some(1_065_536));
        assert_eq!(size_kib(&size(None, Some(204_800), 0), 600_000), Some(870_336));
        assert_eq!(size_kib(&size(Some(1_000_000), None, 537_600), 9), Some(1_537_600));
        assert_eq!(size_kib(&size(Some(65), None, 0), 9), Some(128));
    }

    #[test]
    fn no_number_of_the_guest_overflows_the_size() {
        for tree_kib in [TREE_MAX_KIB + 1, u64::MAX / 10 + 1, u64::MAX - 1, u64::MAX] {
            assert_eq!(size_kib(&size(None, None, 0), tree_kib), None);
            assert_eq!(size_kib(&size(None, Some(1), 0), tree_kib), None);
        }
        assert!(size_kib(&size(None, None, 0), TREE_MAX_KIB).is_some());
        assert_eq!(size_kib(&size(Some(u64::MAX - 9), None, 0), 0), None);
        assert_eq!(size_kib(&size(None, Some(u64::MAX - 9), 0), 9), None);
        assert_eq!(size_kib(&size(Some(9), None, u64::MAX - 9), 0), None);
    }
}
