//! Documents: `yaml.json`, `erlang.json`, and the content cases of `vars.json`.

use std::io;

use serde_json::{Number, Value, json};

use super::run;
use crate::{
    Environment, Inputs, Renderer, erlang,
    haskell::{Term, read},
    types::Content,
    yaml::{self, Yaml},
};

/// Inputs without files and network.
struct Nothing;

impl Inputs for Nothing {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        panic!("nothing is read in these cases, but {path} was")
    }

    fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        panic!("nothing is fetched in these cases, but {url} was")
    }
}

pub(super) fn render(term: &str, environment: &Environment) -> Result<String, String> {
    let content: Content = read(term, 0).map_err(|fault| fault.to_string())?;
    let mut renderer = Renderer { inputs: &Nothing, environment, warnings: Vec::new() };
    let bytes = renderer.content(&content).map_err(|fault| fault.to_string())?;
    Ok(String::from_utf8(bytes).unwrap())
}

fn json_of(document: &Yaml) -> Value {
    match document {
        Yaml::Null => Value::Null,
        Yaml::Bool(truth) => json!(truth),
        Yaml::Number(number) => {
            let text = number.to_string();
            match text.parse::<i64>() {
                Ok(whole) => json!(whole),
                Err(_) => Number::from_f64(text.parse().unwrap()).unwrap().into(),
            }
        }
        Yaml::Text(text) => json!(text),
        Yaml::List(items) => items.iter().map(json_of).collect(),
        Yaml::Map(entries) => {
            entries.iter().map(|(key, value)| (key.clone(), json_of(value))).collect()
        }
    }
}

/// Converts numbers to floats, since JSON's parser does so only for some.
fn floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(floats).collect(),
        Value::Object(entries) => {
            entries.iter().map(|(key, value)| (key.clone(), floats(value))).collect()
        }
        other => other.clone(),
    }
}

/// The case's own JSON if the data are equal.
fn checked(case: &Value, document: &Yaml, text: String) -> Value {
    let expected = &case["expect"]["json"];
    let found = json_of(document);
    let json = if floats(&found) == floats(expected) { expected.clone() } else { found };
    json!({ "json": json, "text": text })
}

#[test]
fn yaml_cases() {
    // Row 50: counted from 1, with the message of another parser.
    let differing = [
        ("tab indentation", "line 2, column "),
        ("unclosed flow", "line 1, column 5"),
        ("colon in plain scalar", "line 1, column 5"),
        ("sequence as key", "line 1, column 3: Non-string keys are not supported"),
        ("alias to a non-string as key", "line 1, column 13: Non-string key alias"),
    ];
    let count = run(
        "yaml",
        |_| true,
        &differing,
        |case| {
            let input = &case["input"];
            let parse =
                |text: &Value| yaml::read(text.as_str().unwrap()).map_err(|e| e.to_string());
            match case["op"].as_str().unwrap() {
                "parse" => {
                    let document = parse(input)?;
                    let text = yaml::write(&document);
                    assert_eq!(yaml::read(&text).unwrap(), document, "{text}");
                    Ok(checked(case, &document, text))
                }
                "merge" => {
                    let documents: Result<Vec<Yaml>, String> =
                        input.as_array().unwrap().iter().map(parse).collect();
                    let merged = documents?
                        .into_iter()
                        .reduce(|left, right| yaml::merge(left, right, &mut Vec::new()))
                        .unwrap();
                    let text = yaml::write(&merged);
                    Ok(checked(case, &merged, text))
                }
                "parse-cloud-config" => {
                    let text = yaml::without_cloud_config_line(input.as_str().unwrap());
                    let document = parse(&json!(text))?;
                    let text = yaml::write_cloud_config(&document);
                    Ok(checked(case, &document, text))
                }
                "render" => {
                    let text = render(input.as_str().unwrap(), &Environment::default())?;
                    Ok(json!({ "text": text }))
                }
                other => panic!("the operation {other}"),
            }
        },
    );
    assert_eq!(count, 75);
}

#[test]
fn erlang_cases() {
    let differing = [
        // Row 51: crashes B9's parser.
        ("float without integer digits is an internal error", "expecting a digit before the point"),
        ("code point out of range", "there is no character with the number 110000"),
        // Row 53.
        ("comment", "ErlAtom"),
        ("comment inside", "[a, b]."),
        // Row 56.
        ("reserved word stays bare", "'end'."),
    ];
    let count = run(
        "erlang",
        |_| true,
        &differing,
        |case| {
            let input = &case["input"];
            let parse = |text: &Value| {
                erlang::read(text.as_str().unwrap())
                    .map(|read| read.term)
                    .map_err(|e| e.to_string())
            };
            match case["op"].as_str().unwrap() {
                "parse" => {
                    let term = parse(input)?;
                    let text = erlang::write(&term);
                    assert_eq!(erlang::read(&text).unwrap().term, term, "{text}");
                    Ok(json!({ "term": term.shown().one_line(), "text": text }))
                }
                "merge" => {
                    let terms: Result<Vec<_>, String> =
                        input.as_array().unwrap().iter().map(parse).collect();
                    let merged = terms?.into_iter().reduce(erlang::merge).unwrap();
                    Ok(json!({ "text": erlang::write(&merged) }))
                }
                "render" => {
                    let text = render(input.as_str().unwrap(), &Environment::default())?;
                    Ok(json!({ "text": text }))
                }
                other => panic!("the operation {other}"),
            }
        },
    );
    assert_eq!(count, 81);
}
