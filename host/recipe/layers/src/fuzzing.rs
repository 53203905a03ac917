//! The bodies of the fuzz targets, for `tests/fuzz` and for this crate's own tests.

/// Parses a `vbuild.yaml`.
pub fn config(bytes: &[u8]) {
    let _ = crate::config::parse("vbuild.yaml", &String::from_utf8_lossy(bytes));
}

/// Parses a script with hints in its comments.
pub fn script(bytes: &[u8]) {
    let script = String::from_utf8_lossy(bytes);
    let _ = crate::hints::Hints::of(&script);
    let _ = crate::hints::disk_bytes(&script, 1 << 30);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn configs(
            text in "(base:|  url: |  sha256: |  recipe: |size: |root: |network: |timeout: |timeouts:|packages: |\
                     20G|30m|true|\\[|\\]|, |&x |\\*x|https://a|\\n|[a-z0-9]){0,40}",
        ) {
            memory_bound::within(16 << 20, || super::config(text.as_bytes()));
        }

        #[test]
        fn scripts(
            text in "(# nocache|# noshare|# chroot-bind-mount |qemu-img |create |resize |-f qcow2 |/a |\\+|[0-9]{1,20}|[KMGTPE]|\"|\\n| ){0,30}",
        ) {
            super::script(text.as_bytes());
        }
    }
}
