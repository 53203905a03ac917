//! The option that a mistyped one was probably meant to be.

/// How alike two options must be for one to be a typing error of the other, from 0 to 1.
const ALIKE: f64 = 0.7;

/// Returns the option, as it is typed, whose name is most like `name`.
pub(super) fn option<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let alike = |known: &&str| strsim::normalized_damerau_levenshtein(name, known);
    known
        .filter(|known| alike(known) >= ALIKE)
        .max_by(|a, b| alike(a).total_cmp(&alike(b)))
        .map(|known| format!("--{known}"))
}
