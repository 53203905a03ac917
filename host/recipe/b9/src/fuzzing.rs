//! Bodies of fuzz targets, for the property tests of this crate and for fuzzers: what
//! reads foreign text. None may panic, overflow the stack or run without end.

use crate::{haskell, types::ArtifactGenerator};

/// The reader of terms; what it reads is printed and read again.
///
/// # Panics
/// When what was printed is not the same value.
pub fn term(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(generator) = haskell::read::<ArtifactGenerator>(text, 0) else { return };
    let laid_out = crate::reformat(&generator);
    let again: ArtifactGenerator =
        haskell::read(&laid_out, 0).expect("what is printed can be read");
    assert_eq!(crate::reformat(&again), laid_out);
}

/// The reader of Erlang terms; what it reads is printed and read again.
///
/// # Panics
/// When what was printed is not the same term.
pub fn erlang(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(read) = crate::erlang::read(text) else { return };
    let printed = crate::erlang::write(&read.term);
    let again = crate::erlang::read(&printed).expect("what is printed can be read");
    assert_eq!(again.term, read.term, "{printed}");
}

/// The template.
///
/// # Panics
/// When a text without a dollar sign changes.
pub fn template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let environment = crate::Environment::new(&["x".into()], &[("a", "$b"), ("b", "")]);
    if let Ok(expanded) = environment.expand_str(text) {
        assert!(text.contains('$') || expanded == text);
    }
}

/// YAML; what is read is printed and read again.
///
/// # Panics
/// When what was printed is not the same document.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(document) = crate::yaml::read(text) else { return };
    let printed = crate::yaml::write(&document);
    let again = crate::yaml::read(&printed).unwrap_or_else(|error| panic!("{error}:\n{printed}"));
    assert_eq!(again, document, "{printed}");
}

#[cfg(test)]
mod tests;
