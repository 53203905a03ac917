//! Variables and generators: `vars.json` and `expand.json`.

use serde_json::{Value, json};

use super::{documents::render, run};
use crate::{
    Environment, Instance, Origin, expand,
    haskell::{Term, read},
    types::{ArtifactGenerator, SourceConversion},
};

fn variables(case: &Value) -> Environment {
    let bound = case["input"]["env"].as_object().unwrap();
    let bound: Vec<(&str, &str)> =
        bound.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
    Environment::new(&[], &bound)
}

fn instances(case: &Value) -> Result<Vec<Instance>, String> {
    let input = &case["input"];
    let generator: ArtifactGenerator =
        read(input["b9"].as_str().unwrap(), 0).map_err(|fault| fault.to_string())?;
    let arguments: Vec<String> = input["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|argument| argument.as_str().unwrap().to_owned())
        .collect();
    let run = [
        ("build_id", "BUILDID"),
        ("build_date", "2024-01-02-03:04:05"),
        ("projectRoot", "/project"),
        ("buildDir", "/project/BUILD-BUILDID"),
    ];
    expand(&generator, &Environment::new(&arguments, &run)).map_err(|fault| fault.to_string())
}

fn shown(instance: &Instance) -> Value {
    let sources = instance.sources.iter().map(|source| {
        let mut shown = json!({ "dest": source.destination.text });
        match &source.origin {
            Origin::File { path, conversion } => {
                shown["file"] = json!(path.text);
                shown["expand"] = json!(*conversion == SourceConversion::ExpandVariables);
            }
            Origin::Content(content) => shown["content"] = json!(content.shown().one_line()),
        }
        if let Some(permissions) = source.permissions {
            shown["mode"] = json!(permissions.digits);
        }
        shown
    });
    json!({
        "iid": instance.id.text,
        "assembly": instance.assembly.shown().one_line(),
        "sources": sources.collect::<Vec<Value>>(),
    })
}

/// Row 21: the artifact's id is bound.
const INSTANCE_ID: &str = "CloudInit []";

#[test]
fn vars_cases() {
    let differing = [("instance_id is not bound (documented, but broken)", INSTANCE_ID)];
    let count = run(
        "vars",
        |_| true,
        &differing,
        |case| {
            let input = &case["input"];
            match case["op"].as_str().unwrap() {
                "subst" => variables(case)
                    .expand_str(input["template"].as_str().unwrap())
                    .map(Value::from)
                    .map_err(|error| error.to_string()),
                "content" => {
                    render(input["content"].as_str().unwrap(), &variables(case)).map(Value::from)
                }
                "expand" => {
                    // Some cases contain ids, most contain only assemblies.
                    let tells_ids = case["expect"][0].is_object();
                    let instances = instances(case)?;
                    let all = instances.iter().map(|instance| {
                        let shown = shown(instance);
                        if tells_ids {
                            json!({ "iid": shown["iid"], "assembly": shown["assembly"] })
                        } else {
                            shown["assembly"].clone()
                        }
                    });
                    Ok(all.collect())
                }
                other => panic!("the operation {other}"),
            }
        },
    );
    assert_eq!(count, 49);
}

#[test]
fn expand_cases() {
    let differing = [("instance_id is not bound", "CloudInit [] \\\"a\\\"")];
    let count = run(
        "expand",
        |_| true,
        &differing,
        |case| Ok(instances(case)?.iter().map(shown).collect()),
    );
    assert_eq!(count, 48);
}
