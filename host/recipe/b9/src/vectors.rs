//! Runs the test vectors recorded from B9 4.0.0: `tests/vectors/*.json`, 440 cases.
//!
//! Each test runs every case of its kind. Intentional differences are listed by case name with
//! vbuild's result, and the test fails if a listed case no longer differs.

mod documents;
mod generators;
mod images;
mod samples;
mod terms;

use std::collections::BTreeMap;

use serde_json::Value;

/// The cases in a file.
fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Runs cases and returns their number.
///
/// `differing` lists the cases whose result differs from B9's, with a part of vbuild's message or
/// output.
fn run(
    file: &str,
    wanted: impl Fn(&Value) -> bool,
    differing: &[(&str, &str)],
    outcome: impl Fn(&Value) -> Result<Value, String>,
) -> usize {
    let mut left: BTreeMap<&str, &str> = differing.iter().copied().collect();
    let mut wrong = Vec::new();
    let cases = cases(file);
    let mut count = 0;
    for case in cases.iter().filter(|case| wanted(case)) {
        count += 1;
        let name = case["name"].as_str().unwrap();
        let found = outcome(case);
        if let Some(instead) = left.remove(name) {
            let text = match &found {
                Ok(value) => value.to_string(),
                Err(message) => message.clone(),
            };
            if !text.contains(instead) {
                wrong.push(format!("{name}: `{instead}` is not in {text}"));
            }
            continue;
        }
        match (&found, case.get("expect"), case.get("error")) {
            (Ok(value), Some(expected), _) if value == expected => {}
            (Err(message), _, Some(error)) if agrees(message, error.as_str().unwrap()) => {}
            _ => wrong.push(format!(
                "{name}:\n  input    {}\n  expected {}\n  found    {found:?}",
                case["input"],
                case.get("expect").or(case.get("error")).unwrap()
            )),
        }
    }
    wrong.extend(left.keys().map(|name| format!("there is no case `{name}`")));
    assert!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    count
}

/// Whether a message contains the first line of B9's error, if that has any text.
fn agrees(message: &str, error: &str) -> bool {
    // Haskell's `read` gives no other message.
    const NO_PARSE: &str = "Prelude.read: no parse";
    error == NO_PARSE
        || message.contains(
            error
                .lines()
                .next()
                .unwrap()
                .trim_end_matches(" ... All value lists must have the same length!")
                .trim_end_matches(" ... The variable list")
                .trim_end(),
        )
}
