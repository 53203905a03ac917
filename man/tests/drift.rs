//! Checks that the committed manual equals the page rendered from the command line's types.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

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

/// Every page of the folder.
fn pages() -> Vec<(std::path::PathBuf, String)> {
    let folder = fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let is_page = |path: &std::path::PathBuf| {
        path.extension()
            .is_some_and(|end| end.to_str().is_some_and(|end| end.parse::<u8>().is_ok()))
    };
    files.filter(is_page).map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_page_has_its_date_and_version_where_they_belong() {
    let pages = pages();
    assert!(pages.len() > 3, "{pages:?}");
    for (path, page) in pages {
        let name = path.file_stem().unwrap().to_string_lossy().to_uppercase().replace('-', "\\-");
        let section = path.extension().unwrap().to_string_lossy().into_owned();
        let version = vbuild::command().get_version().unwrap().to_owned();
        let head = format!(
            ".TH {name} {section} \"{}\" \"vbuild {version}\" \"vbuild manual\"",
            man::DATE
        );
        assert!(page.lines().any(|line| line == head), "{}: no line {head}", path.display());
    }
}

#[test]
fn mandoc_finds_nothing_wrong() {
    for (path, _) in pages() {
        let lint = std::process::Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(&path)
            .output();
        let Ok(output) = lint else {
            println!("skipped: mandoc is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn every_option_and_verb_is_told() {
    let page = man::vbuild_1().unwrap().replace("\\-", "-");
    for option in vbuild::command().get_arguments().filter(|arg| !arg.is_hide_set()) {
        if let Some(long) = option.get_long() {
            assert!(page.contains(&format!("--{long}")), "--{long} is missing");
        }
    }
    let lines: Vec<&str> = page.lines().collect();
    for lines in lines.windows(3).filter(|lines| lines[0] == ".TP") {
        assert!(!lines[2].is_empty(), "{} has no text", lines[1]);
    }
    for verb in vbuild::command().get_subcommands() {
        assert!(page.contains(&format!("vbuild {}", verb.get_name())));
    }
}
