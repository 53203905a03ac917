//! Checks licences of everything linked into vbuild: the list of deny.toml against the licences
//! that crates declare.

use super::{metadata, none, read};

/// Reads the strings in `allow = [ … ]` of deny.toml.
fn allowed() -> Vec<String> {
    let text = read("deny.toml");
    let list = text.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// A parser that decides whether an SPDX expression is satisfied by these licences.
struct Expression<'a> {
    words: std::iter::Peekable<std::vec::IntoIter<&'a str>>,
    allowed: &'a [String],
}

impl<'a> Expression<'a> {
    fn is_met(text: &'a str, allowed: &'a [String]) -> bool {
        let mut words = Vec::new();
        for word in text.split([' ', '/']).filter(|word| !word.is_empty()) {
            let opening = word.len() - word.trim_start_matches('(').len();
            let closing = word.len() - word.trim_end_matches(')').len();
            words.extend(std::iter::repeat_n("(", opening));
            words.push(&word[opening..word.len() - closing]);
            words.extend(std::iter::repeat_n(")", closing));
        }
        // Before SPDX expressions, `MIT/Apache-2.0` meant either.
        let either = text.contains('/') && !text.contains(" OR ") && !text.contains(" AND ");
        if either {
            return words.iter().any(|word| allowed.iter().any(|one| one == word));
        }
        Self { words: words.into_iter().peekable(), allowed }.any()
    }

    fn any(&mut self) -> bool {
        let mut met = self.all();
        while self.words.next_if_eq(&"OR").is_some() {
            met |= self.all();
        }
        met
    }

    fn all(&mut self) -> bool {
        let mut met = self.one();
        while self.words.next_if_eq(&"AND").is_some() {
            met &= self.one();
        }
        met
    }

    fn one(&mut self) -> bool {
        if self.words.next_if_eq(&"(").is_some() {
            let met = self.any();
            self.words.next_if_eq(&")");
            return met;
        }
        let mut licence = self.words.next().unwrap_or_default().to_owned();
        if self.words.next_if_eq(&"WITH").is_some() {
            licence = format!("{licence} WITH {}", self.words.next().unwrap_or_default());
        }
        self.allowed.contains(&licence)
    }
}

#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_the_registry() {
    let (metadata, allowed) = (metadata(), allowed());
    let mut complaints = Vec::new();
    for package in &metadata.packages {
        let Some(source) = &package.source else { continue };
        if !source.is_crates_io() {
            complaints.push(format!("`{}` comes from {source}", package.name));
        }
        let licence = package.license.as_deref().unwrap_or("none");
        if !Expression::is_met(licence, &allowed) {
            complaints.push(format!("`{}` has the licence {licence}", package.name));
        }
    }
    none(&complaints);
}

#[test]
fn expressions_are_understood() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned(), "A WITH x".to_owned()];
    let met = |text| Expression::is_met(text, &allowed);
    assert!(met("MIT") && met("GPL OR MIT") && met("GPL/MIT") && met("(GPL OR MIT) AND ISC"));
    assert!(met("A WITH x") && met("MIT OR (GPL AND ISC)"));
    assert!(!met("GPL") && !met("GPL AND MIT") && !met("A") && !met("(GPL OR X) AND MIT"));
}
