//! The bodies of the fuzz targets for data of a mirror, for `tests/fuzz` and for this crate's own
//! tests.

use std::{cmp::Ordering, fs::File, io::Write};

use crate::{
    deb, deb822, index,
    keys::{Keyring, Role},
    modules,
    release::{Expiry, Release},
    solve, version,
};

/// A time at which the keys are valid: 2025-10-01.
const NOW: u64 = 1_759_276_800;

/// Parses an InRelease file, signed or not.
pub fn release(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = Release::read(&text, "trixie", Expiry::Refuse, NOW);
    let keyring = Keyring::debian(Role::Archive).expect("the keys of this crate");
    // The fuzzer cannot sign, so no input may be verified.
    let signed = Release::verify(&text, "trixie", &keyring, Expiry::Refuse, NOW);
    if let Ok(release) = signed {
        assert!(release.file("main/binary-amd64/Packages.xz").is_some(), "a forged signature");
    }
}

/// Parses a package index and resolves packages from it.
pub fn packages(bytes: &[u8]) {
    let mut reader = deb822::Reader::new(bytes);
    while let Ok(Some(paragraph)) = reader.next_paragraph() {
        for (name, value) in paragraph.iter() {
            assert!(paragraph.get(name).is_some());
            let _ = index::parse_relations(value);
        }
    }
    let mut all = index::Index::default();
    if all.add(bytes, 0).is_err() || all.finish().is_err() {
        return;
    }
    if let Ok(chosen) = solve::resolve(&all, &["a".to_owned()]) {
        let wanted = index::Alternative { name: "a".to_owned(), version: None };
        let is_wanted =
            |package: &index::Package| package.name == wanted.name || package.provides(&wanted);
        assert!(chosen.iter().any(is_wanted));
    }
}

/// Reads a package file. The names of its first members are replaced by those of a package, which
/// no mutation would find.
pub fn package(bytes: &[u8]) {
    let _ = modules::parse_depends(bytes);
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path().join("a.deb");
    let mut file = File::create(&path).expect("a file for the test");
    let parts: Vec<&[u8]> = bytes.splitn(2, |byte| *byte == 0xff).collect();
    let (control, data) = (parts[0], parts.get(1).copied().unwrap_or_default());
    let members: [(&str, &[u8]); 3] =
        [("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", data)];
    file.write_all(b"!<arch>\n").expect("room");
    for (name, content) in members {
        let size = content.len();
        writeln!(file, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, 100_644)
            .expect("room");
        file.write_all(content).and_then(|()| file.write_all(&b"\n"[..size % 2])).expect("room");
    }
    let spool = File::create(folder.path().join("spool")).expect("a file for the test");
    let mut spool = deb::Spool::new(0, spool);
    let Ok(read) = deb::read(&path, &mut spool, &|_| true) else { return };
    for entry in &read.entries {
        assert!(!entry.path.starts_with('/') && !entry.path.split('/').any(|part| part == ".."));
    }
}

/// Compares three versions, whose order must be total.
///
/// # Panics
/// Panics if the order is not total.
pub fn versions(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\n');
    let mut next = || parts.next().unwrap_or_default();
    let (a, b, c) = (next(), next(), next());
    assert_eq!(version::compare(a, a), Ordering::Equal);
    assert_eq!(version::compare(a, b), version::compare(b, a).reverse());
    if version::compare(a, b).is_le() && version::compare(b, c).is_le() {
        assert!(version::compare(a, c).is_le(), "{a:?} <= {b:?} <= {c:?}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn releases(
            text in "(-----BEGIN PGP SIGNED MESSAGE-----\\n|Hash: SHA256\\n|\\n|Codename: trixie\\n|\
                     Date: Wed, 01 Oct 2025 00:00:00 UTC\\n|Valid-Until: |SHA256:\\n| [0-9a-f]{64} 10 main/x\\n|\
                     -----BEGIN PGP SIGNATURE-----\\n|iQ[A-Za-z0-9+/]{62}\\n|=abcd\\n|-----END PGP SIGNATURE-----\\n){0,12}",
        ) {
            super::release(text.as_bytes());
        }

        #[test]
        fn indices(
            text in "(Package: [ab]\\n|Version: [0-9.:~-]{1,5}\\n|Depends: [ab](, [ab] \\(>= 1\\))?\\n|Provides: c\\n|\
                     Essential: yes\\n|Priority: required\\n|Filename: x\\n|Size: [0-9]{1,22}\\n|SHA256: [0-9a-f]{64}\\n|\
                     Architecture: amd64\\n|Conflicts: [ab]\\n| x\\n|\\n){0,30}",
        ) {
            super::packages(text.as_bytes());
        }

        #[test]
        fn orders(text in "([0-9]{0,3}[a-z+~.:-]{0,2}){0,4}\\n([0-9]{0,3}[a-z+~.:-]{0,2}){0,4}\\n([0-9]{0,3}[a-z+~.:-]{0,2}){0,4}") {
            super::versions(text.as_bytes());
        }

        #[test]
        fn package_files(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            super::package(&bytes);
        }
    }
}
