//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests: the parsers of
//! data that the agent gets from processes and files of the guest.

/// Reads a datagram of the name service.
pub fn name_query(bytes: &[u8]) {
    crate::network::read_query(bytes);
}

/// Parses files of the guest's kernel: the mount table, the list of modules, and a module.
pub fn kernel_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let _ = crate::mounts::parse_line(line);
    }
    let _ = crate::modules::find_in_list(&text, "vfat");
    let _ = crate::modules::depends_in(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn queries(
            head in any::<[u8; 12]>(),
            question in any::<bool>(),
            labels in prop::collection::vec("[a-z0-9.-]{0,70}", 0..6),
            rest in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let mut query = head.to_vec();
            if question {
                (query[2], query[4], query[5]) = (query[2] & 7, 0, 1);
            }
            for label in labels {
                query.push(u8::try_from(label.len()).unwrap());
                query.extend(label.bytes());
            }
            query.extend(rest);
            super::name_query(&query);
        }

        #[test]
        fn files(text in "(36 35 98:0 |/mnt|\\\\040|\\\\| - |ext4|rw,| |kernel/fs/vfat.ko:|\\x00depends=|,|\\n){0,40}") {
            super::kernel_files(text.as_bytes());
        }
    }
}
