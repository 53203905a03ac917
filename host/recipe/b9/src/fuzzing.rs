//! Bodies of fuzz targets for the parsers of untrusted text, used by fuzzers and by this crate's
//! property tests. None may panic, overflow the stack or loop without end.

use crate::{haskell, types::ArtifactGenerator};

/// Parses a Haskell term, prints it, and parses the result again.
///
/// # Panics
/// Panics if the second value differs from the first.
pub fn term(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(generator) = haskell::read::<ArtifactGenerator>(text, 0) else { return };
    let laid_out = crate::reformat(&generator);
    let again: ArtifactGenerator =
        haskell::read(&laid_out, 0).expect("what is printed can be read");
    assert_eq!(crate::reformat(&again), laid_out);
}

/// Parses an Erlang term, prints it, and parses the result again.
///
/// # Panics
/// Panics if the second term differs from the first.
pub fn erlang(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(read) = crate::erlang::read(text) else { return };
    let printed = crate::erlang::write(&read.term);
    let again = crate::erlang::read(&printed).expect("what is printed can be read");
    assert_eq!(again.term, read.term, "{printed}");
}

/// Expands a template.
///
/// # Panics
/// Panics if a text without a dollar sign changes.
pub fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let environment = crate::Environment::new(&["x".into()], &[("a", "$b"), ("b", "")]);
    if let Ok(expanded) = environment.expand_str(text) {
        assert!(text.contains('$') || expanded == text);
    }
}

/// Parses YAML, prints it, and parses the result again.
///
/// # Panics
/// Panics if the second document differs from the first.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(document) = crate::yaml::read(text) else { return };
    let printed = crate::yaml::write(&document);
    let again = crate::yaml::read(&printed).unwrap_or_else(|error| panic!("{error}:\n{printed}"));
    assert_eq!(again, document, "{printed}");
}

#[cfg(test)]
mod tests;
