//! Resolves plain scalars, and finds strings that need quotes.

use super::Yaml;
use crate::number::Number;

const NULLS: [&str; 4] = ["null", "Null", "NULL", "~"];

/// The value of a plain scalar.
pub(super) fn resolve(text: &str) -> Yaml {
    if text.is_empty() || NULLS.contains(&text) {
        return Yaml::Null;
    }
    match truth(text) {
        Some(truth) => Yaml::Bool(truth),
        None => match Number::parse(text) {
            Some(number) => Yaml::Number(number),
            None => Yaml::Text(text.to_owned()),
        },
    }
}

/// The words for true and false: lower case, upper case, or capitalized.
fn truth(text: &str) -> Option<bool> {
    let small = text.to_ascii_lowercase();
    let rest_small = text.get(1..) == small.get(1..);
    if !rest_small && text != text.to_ascii_uppercase() {
        return None;
    }
    match small.as_str() {
        "y" | "yes" | "on" | "true" => Some(true),
        "n" | "no" | "off" | "false" => Some(false),
        _ => None,
    }
}

/// Whether a string must be quoted, because unquoted it would have another meaning.
pub(super) fn is_special(text: &str) -> bool {
    text.is_empty()
        || text == "*"
        || NULLS.contains(&text)
        || truth(text).is_some()
        || Number::looks_like(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_three_spellings() {
        for word in ["on", "On", "ON", "Y", "n", "FALSE", "True"] {
            assert!(matches!(resolve(word), Yaml::Bool(_)), "{word}");
        }
        for word in ["oN", "yEs", "tRUE", "nULL", "é"] {
            assert!(matches!(resolve(word), Yaml::Text(_)), "{word}");
        }
    }
}
