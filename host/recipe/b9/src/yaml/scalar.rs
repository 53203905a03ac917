//! What a plain scalar means, and which strings would be taken for something else.

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

/// The words for true and false: in small letters, in capitals, or with one capital.
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

/// Whether a string must be quoted, because it means something else when it is not.
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
