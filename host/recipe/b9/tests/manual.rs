//! Checks that the manual names every constructor, and that its example is a valid B9 file.

use b9::{Environment, File, Files, check, expand, read};

const MANUAL: &str = include_str!("../../../../man/vbuild-b9.5");
/// Types in the lists of constructors, as the parser names them.
const TYPES: [&str; 4] = [
    include_str!("../src/types/content.rs"),
    include_str!("../src/types/generator.rs"),
    include_str!("../src/types/image.rs"),
    include_str!("../src/types/script.rs"),
];

fn manual() -> String {
    let text = MANUAL.replace("\\-", "-").replace("\\(dq", "\"").replace("\\(aq", "'");
    text.replace("\\e", "\\")
}

#[test]
fn every_constructor_is_in_the_manual() {
    let manual = manual();
    let words: Vec<&str> = manual.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let mut count = 0;
    for line in TYPES.iter().flat_map(|text| text.lines()) {
        let line = line.trim();
        let Some((_, rest)) = line.split_once(" = \"").filter(|_| !line.starts_with("const "))
        else {
            continue;
        };
        // For a type with one constructor, the second name is parsed.
        let name = match rest.split_once("\"(\"") {
            Some((_, constructor)) => constructor,
            None if rest.ends_with('{') => continue,
            None => rest,
        };
        let name = name.split('"').next().unwrap_or_default();
        // Formatting marks may precede the name.
        let named = words
            .iter()
            .any(|word| *word == name || word.strip_prefix("fB").is_some_and(|word| word == name));
        assert!(named, "{name} is missing");
        count += 1;
    }
    assert!(count > 60, "only {count} constructors found");
}

#[test]
fn the_example_can_be_built() {
    let manual = manual();
    let start = manual.find("\nArtifact (IID").unwrap() + 1;
    let end = start + manual[start..].find("\n.fi").unwrap();
    let text = manual[start..end].to_owned();
    let files = Files(vec![File { name: "example".into(), text }]);
    let generator = read(&files).unwrap_or_else(|fault| panic!("{}", files.show(&fault)));
    let instances = expand(&generator, &Environment::default()).unwrap();
    let findings = check(&instances);
    assert_eq!((findings.faults, findings.warnings), (Vec::new(), Vec::new()));
}
