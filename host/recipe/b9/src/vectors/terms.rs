//! Terms: `read.json` and `script.json`.

use serde_json::{Value, json};

use super::run;
use crate::{
    haskell::{Bytes, Term, read},
    place::Text,
    types::{ArtifactGenerator, Content, ImageSize, Script, SharedImage},
};

fn forms<T: Term>(input: &str) -> Result<Value, String> {
    let value: T = read(input, 0).map_err(|fault| fault.to_string())?;
    let shown = value.shown();
    let reformat = shown.laid_out();
    let again: T = read(&reformat, 0).map_err(|fault| format!("read again: {fault}"))?;
    assert_eq!(again.shown(), shown, "what `reformat` writes is the same value");
    assert_eq!(again.shown().laid_out(), reformat, "and the same text");
    Ok(json!({ "show": shown.one_line(), "reformat": reformat }))
}

#[test]
fn read_cases() {
    let differing = [
        ("int: 64-bit wrap-around", "does not fit into 64 bits"),
        ("string: surrogate code point accepted", "half of a surrogate pair"),
        // An extension of B9's syntax; never printed this way.
        ("YamlObject literal in parens is rejected", "RenderYamlObject (AST YamlObject"),
        // Reported when the file is parsed, with its position.
        ("YamlObject with bad YAML fails when used", "the YAML text: line 1, column"),
    ];
    let count = run(
        "read",
        |_| true,
        &differing,
        |case| {
            let input = case["input"].as_str().unwrap();
            match case["type"].as_str().unwrap() {
                "ArtifactGenerator" => forms::<ArtifactGenerator>(input),
                "Script" => forms::<Script>(input),
                "ImageSize" => forms::<ImageSize>(input),
                "String" => forms::<Text>(input),
                "Content" => forms::<Content>(input),
                "SharedImage" => forms::<SharedImage>(input),
                other => panic!("the type {other}"),
            }
        },
    );
    assert_eq!(count, 97);
}

#[test]
fn script_cases() {
    // Row 95: a quote is escaped.
    let differing = [("quote in the In path is not escaped", r"pushd '/it'\\''s'")];
    let count = run(
        "script",
        |_| true,
        &differing,
        |case| {
            let script: Script =
                read(case["input"].as_str().unwrap(), 0).map_err(|fault| fault.to_string())?;
            Ok(crate::to_bash(&script).into())
        },
    );
    assert_eq!(count, 34);
}

#[test]
fn bytes_are_characters_modulo_256() {
    let bytes: Bytes = read(r#""A\255\256\321""#, 0).unwrap();
    assert_eq!(bytes.0, [0x41, 0xff, 0, 0x41]);
}
