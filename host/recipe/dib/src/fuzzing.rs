//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests.

use crate::{block_device::Configuration, source::index_link};

/// Lowers a block-device configuration, from the text to the layout.
pub fn block_device(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(configuration) = Configuration::parse(&text) else { return };
    let _ = configuration.symbols();
    let _ = configuration.lower(None, &|name| name.to_owned());
}

/// Parses a page of a package index.
pub fn index_page(bytes: &[u8]) {
    let page = String::from_utf8_lossy(bytes);
    if let Some(link) = index_link("https://example.org/simple/x/", &page, "x-1.0.tar.gz") {
        assert!(link.contains("://"), "{link}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Keys and values of real configurations, to be shuffled.
    const WORDS: &str = "(- |  |    |local_loop:|partitioning:|lvm:|mkfs:|mount:|fstab:|name:|base:|\
                         label:|partitions:|size:|type:|pvs:|vgs:|lvs:|options:|mount_point:| image0|\
                         mbr|gpt|root|/|40%|1GiB|-1|99999999999999999999|'83'|\\[|\\]|, |&x |\\*x|\\n){0,60}";

    proptest! {
        #[test]
        fn configurations(text in WORDS) {
            memory_bound::within(8 << 20, || super::block_device(text.as_bytes()));
        }

        #[test]
        fn pages(text in "(href=|\"|'|x-1.0.tar.gz|/|\\.\\./|#|\\?|&amp;|https://|[a-z<>]){0,40}") {
            super::index_page(text.as_bytes());
        }
    }
}
