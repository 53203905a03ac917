//! The committed manual is the one that the command line's types render.

use std::{fs, path::Path};

#[test]
fn the_manual_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vbuild.1");
    let rendered = man::vbuild_1().unwrap();
    if std::env::var_os("UPDATE_MAN").is_some() {
        fs::write(&path, &rendered).unwrap();
        return;
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == rendered,
        "man/vbuild.1 is not what the command line's types render; run the tests of `man` with UPDATE_MAN=1 set"
    );
}

#[test]
fn every_option_and_verb_is_told() {
    let page = man::vbuild_1().unwrap().replace("\\-", "-");
    for option in vbuild::cli::command().get_arguments().filter(|arg| !arg.is_hide_set()) {
        if let Some(long) = option.get_long() {
            assert!(page.contains(&format!("--{long}")), "--{long} is missing");
        }
    }
    for verb in vbuild::cli::command().get_subcommands() {
        assert!(page.contains(&format!("vbuild {}", verb.get_name())));
    }
}
