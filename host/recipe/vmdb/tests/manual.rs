//! Checks that the manual names every step with every key, and that its example is a valid spec.

mod common;

use common::try_prepare;
use vmdb::steps::KINDS;

const MANUAL: &str = include_str!("../../../../man/vbuild-vmdb.5");

/// The paragraph of a step, without formatting marks.
fn paragraph(name: &str) -> Option<String> {
    let text = MANUAL.replace("\\-", "-");
    let start = [format!(".BI {name}: "), format!(".B {name}: ")]
        .iter()
        .find_map(|head| text.find(head.as_str()))?;
    let rest = &text[start..];
    let end = rest.find("\n.TP").or_else(|| rest.find("\n.SH")).unwrap_or(rest.len());
    Some(rest[..end].to_owned())
}

#[test]
fn every_key_is_in_the_manual() {
    for kind in KINDS {
        let paragraph = paragraph(kind.name).unwrap_or_else(|| panic!("{} is missing", kind.name));
        for key in kind.keys().into_iter().filter(|key| *key != kind.name && *key != "unless") {
            let bold = [format!("\\fB{key}\\fR"), format!("\\fB{key}:")];
            assert!(bold.iter().any(|b| paragraph.contains(b.as_str())), "{}: {key}", kind.name);
        }
    }
}

#[test]
fn the_example_is_a_spec() {
    let text = MANUAL.replace("\\-", "-");
    let start = text.find("\nsteps:").unwrap() + 1;
    let end = start + text[start..].find("\n.fi").unwrap() + 1;
    let prepared = try_prepare(&text[start..end], &[], |options| {
        options.variables = vec!["mirror=http://mirror.example/debian".into()];
        options.rootfs_tarball = Some("root.tar.gz".into());
    })
    .unwrap();
    let names: Vec<&str> =
        prepared.lowered.plan.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "01-mkimg",
            "02-mklabel",
            "05-mkfs",
            "06-mount",
            "08-debootstrap",
            "09-apt",
            "10-cache-rootfs",
            "11-chroot",
            "12-fstab",
            "13-grub-mount",
            "13-grub",
            "finish"
        ]
    );
    assert_eq!(plan::check(&prepared.lowered.plan), []);
}

#[test]
fn the_specs_that_the_tests_build_are_taken() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/vmdb");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // This one needs the image of another one.
        let is_spec = path.extension().is_some_and(|extension| extension == "vmdb");
        if !is_spec || path.ends_with("again.vmdb") {
            continue;
        }
        let options = vmdb::Options {
            variables: vec!["mirror=http://mirror.example/debian".into(), "word=x".into()],
            rootfs_tarball: Some("no-tarball.tar.gz".into()),
            ..common::options(std::path::Path::new(folder), path.to_str().unwrap())
        };
        let prepared = vmdb::prepare(&options, &mut std::io::empty())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(plan::check(&prepared.lowered.plan), [], "{}", path.display());
        assert_eq!(prepared.lowered.warnings, []);
        count += 1;
    }
    assert!(count >= 6, "only {count} specs found");
}
