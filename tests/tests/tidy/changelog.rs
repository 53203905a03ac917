//! Checks the format of CHANGELOG.md.

use super::read;

#[test]
fn headings_are_those_of_keep_a_changelog() {
    const KINDS: &[&str] = &["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
    let page = read("CHANGELOG.md");
    let mut versions = 0;
    for line in page.lines() {
        if let Some(kind) = line.strip_prefix("### ") {
            assert!(KINDS.contains(&kind), "`{kind}` is no kind of change");
        } else if let Some(version) = line.strip_prefix("## ") {
            versions += 1;
            let unreleased = version == "[Unreleased]";
            assert_eq!(unreleased, versions == 1, "unreleased changes come first: {line}");
            assert!(unreleased || is_release(version), "`{version}` is no version with a date");
        }
    }
    assert!(versions > 0);
}

/// Whether a heading has the form `[1.2.3] - 2026-01-31`.
fn is_release(heading: &str) -> bool {
    let Some((version, date)) = heading.split_once(" - ") else { return false };
    let numbers = |text: &str, separator, count| {
        let parts: Vec<&str> = text.split(separator).collect();
        parts.len() == count && parts.iter().all(|part| part.parse::<u32>().is_ok())
    };
    let version = version.strip_prefix('[').and_then(|version| version.strip_suffix(']'));
    version.is_some_and(|version| numbers(version, '.', 3)) && numbers(date, '-', 3)
}
