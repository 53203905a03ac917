//! Checks that the tests which SECURITY.md names exist.

use std::collections::BTreeSet;

use super::{metadata, none, read, root, sources};

/// Names of functions, modules and crates in the sources.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for (path, text) in sources::files() {
        let words = text.split_whitespace().collect::<Vec<_>>();
        for pair in words.windows(2).filter(|pair| matches!(pair[0], "fn" | "mod")) {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            known.extend(pair[1].split(|c| !is_name(c)).next().map(str::to_owned));
        }
        // Programs of tests have the names of their files and folders.
        known.extend(path.trim_end_matches(".rs").split('/').map(str::to_owned));
    }
    known
}

/// The names of tests in the table: the words in backquotes in its last column.
fn named(page: &str) -> Vec<String> {
    let mut named = Vec::new();
    let mut sections = page.split("\n## ");
    let section = sections.find(|section| section.starts_with("Mitigations")).unwrap_or_default();
    for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let column = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        named.extend(column.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    named
}

#[test]
fn the_tests_that_security_names_exist() {
    let (known, named) = (known(), named(&read("SECURITY.md")));
    assert!(named.len() > 100, "only {} names found", named.len());
    let packages = metadata().packages;
    let is_crate = |name: &str| packages.iter().any(|package| package.name.as_str() == name);
    let exists = |name: &str| {
        let last = name.rsplit("::").find(|part| *part != "*").unwrap_or_default();
        match last.strip_suffix('*') {
            Some(beginning) => known.iter().any(|name| name.starts_with(beginning)),
            None => known.contains(last) || is_crate(name),
        }
    };
    let files = sources::files();
    let is_file = |name: &str| files.iter().any(|(path, _)| path.ends_with(name));
    let is_there = |name: &str| match name.contains(['/', ' ']) {
        true => name.starts_with("sh ") || root().join(name).exists() || is_file(name),
        false => exists(name),
    };
    let missing = named.iter().filter(|name| !is_there(name));
    none(&missing.map(|name| format!("SECURITY.md names `{name}`")).collect::<Vec<_>>());
}
