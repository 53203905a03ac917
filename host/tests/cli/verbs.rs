//! Verbs by name, against the whole program.

use super::{make_home, run};

fn said(line: &str) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().canonicalize().unwrap();
    make_home(&home);
    let output = run(&home, line);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_mistyped_verb_is_met_before_anything_is_fetched() {
    for (line, meant) in [
        ("vbuild docter", "`doctor`"),
        ("vbuild vmbd --output x.img s.vmdb", "`vmdb`"),
        ("vbuild layer", "`layers`"),
        ("vbuild appliances", "`appliance`"),
        ("vbuild complete bash", "`completions`"),
        ("vbuild help docter", "`doctor`"),
    ] {
        let (status, _, errors) = said(line);
        assert_eq!(status, 1, "{line}: {errors}");
        assert!(errors.contains(meant), "{line}: {errors}");
        assert!(!errors.contains("etch"), "{line}: {errors}");
    }
    // An element of that name, which is there, is an element.
    let (_, _, errors) = said("vbuild -B [HOME]/diskimage_builder/lib twin");
    assert!(!errors.contains("did you mean"), "{errors}");
}

#[test]
fn a_group_alone_lists_what_stands_below_it() {
    for (group, verbs) in [
        ("store", &["ls", "du", "verify", "gc"][..]),
        ("cache", &["create"]),
        ("appliance", &["build", "list"]),
    ] {
        let (status, _, errors) = said(&format!("vbuild {group}"));
        assert_eq!(status, 1);
        for verb in verbs {
            assert!(errors.contains(&format!("\n  {verb} ")), "{group} {verb}: {errors}");
        }
    }
}

#[test]
fn help_is_a_word_too() {
    let (_, long, _) = said("vbuild --help");
    assert_eq!(said("vbuild help"), (0, long, String::new()));
    let (_, long, _) = said("vbuild vmdb --help");
    assert_eq!(said("vbuild help vmdb"), (0, long, String::new()));
    let (_, long, _) = said("vbuild store gc --help");
    assert_eq!(said("vbuild help store gc"), (0, long, String::new()));
    assert_eq!(said("vbuild version"), said("vbuild --version"));
}
