//! Messages for invalid terms, and size limits.

use super::{FILE_BYTES_MAX, NESTING_MAX, read};
use crate::{
    File, Files,
    types::{ArtifactGenerator, Script},
};

/// The fault in a text, as shown to the user.
fn fault(text: &str) -> String {
    let files = Files(vec![File { name: "a.b9".into(), text: text.into() }]);
    match read::<ArtifactGenerator>(text, 0) {
        Ok(_) => panic!("{text} was read"),
        Err(fault) => files.show(&fault),
    }
}

#[test]
fn a_fault_has_place_line_and_expectation() {
    assert_eq!(
        fault("Let []\n  [ Artifakt (IID \"a\") ]\n"),
        "a.b9:2:5: found `Artifakt` where an ArtifactGenerator was expected (Sources, Let, LetX, \
         Each, EachT, Artifact, EmptyArtifact)\n  2 |   [ Artifakt (IID \"a\") ]\n    |     ^\n  \
         hint: `Artifact` was probably meant"
    );
}

#[test]
fn what_old_files_and_programs_have_is_explained() {
    let images = |source: &str| {
        format!(
            "Artifact (IID \"a\") (VmImages [ImageTarget Transient ({source}) NotMounted] NoVmScript)"
        )
    };
    for (text, at, hint) in [
        (
            "Sources [FromContent \"f\" (RenderYaml (ASTString \"x\"))] []".into(),
            "1:27",
            "RenderCloudConfig for user-data",
        ),
        ("Sources [Concatenation \"f\" []] []".into(), "1:10", "was removed in B9 0.5.62"),
        (images("EmptyImage \"l\" Ext4 Raw (ImageSize 1024 B)"), "1:94", "KB is the smallest"),
        (
            "Artifact (IID \"a\") (VmImagesPostFix [] NoVmScript NoOP)".into(),
            "1:21",
            "VmImagesWithFixup",
        ),
        ("-- nothing\nEmptyArtifact".into(), "1:1", "no comments"),
        ("EmptyArtifact -- nothing".into(), "1:15", "no comments"),
        ("{- nothing -} EmptyArtifact".into(), "1:1", "no comments"),
        ("\u{feff}EmptyArtifact".into(), "1:1", "without a BOM"),
        ("Artifact IID \"a\" (CloudInit [] \"o\")".into(), "1:10", "in parentheses: (IID …)"),
        ("Artifact (IID \"a\") CloudInit [] \"o\"".into(), "1:20", "in parentheses: (CloudInit …)"),
        ("Artifact (IID \"a\") $ CloudInit [] \"o\"".into(), "1:20", "in parentheses"),
        ("Artifact (IID (\"a\" ++ \"b\")) (CloudInit [] \"o\")".into(), "1:20", "one string"),
        ("EmptyArtifact EmptyArtifact".into(), "1:15", "Let [] [a, b]"),
        ("Let [] [EmptyArtifact,]".into(), "1:23", "no comma"),
        ("Let [] [EmptyArtifact;EmptyArtifact]".into(), "1:22", "separated by commas"),
        ("Artifact (IID 'ab') (CloudInit [] \"o\")".into(), "1:15", "double quotes"),
        ("Sources [FromFile \"d\" \"s\"] []".into(), "1:23", "(Source NoConversion \"path\")"),
        (
            "Artifact (IID \"a\") (VmImages [] (VmScript \"n\" X86_64 [] NoOP))".into(),
            "1:43",
            "no name",
        ),
        ("Artifact (IID \"a\\ b\") (CloudInit [] \"o\")".into(), "1:17", "a backslash is written"),
        ("B9.EmptyArtifact".into(), "1:3", "name of a module"),
    ] {
        let shown = fault(&text);
        let begin = format!("a.b9:{at}: ");
        assert!(shown.starts_with(&begin) && shown.contains(hint), "{text}\n{begin}\n{shown}");
        assert!(shown.contains("\n  hint: "), "{shown}");
    }
}

#[test]
fn what_does_not_end_is_told_where_it_begins() {
    assert!(fault("Artifact (IID \"a) (CloudInit [] o)").starts_with("a.b9:1:15: the string"));
    assert!(fault("Let [] [EmptyArtifact").starts_with("a.b9:1:8: this bracket is not closed"));
    assert!(fault("").starts_with("a.b9:1:1: found the end of the file"));
    assert!(
        fault("Artifact (IID \"a\")").starts_with("a.b9:1:19: `Artifact` lacks its argument 2")
    );
}

/// Row 15, on the small stack of test threads.
#[test]
fn deep_terms_are_read_and_deeper_ones_refused() {
    let generators =
        |levels: usize| format!("{}EmptyArtifact{}", "Let [] [".repeat(levels), "]".repeat(levels));
    let generator: ArtifactGenerator = read(&generators(NESTING_MAX), 0).unwrap();
    let laid_out = crate::reformat(&generator);
    assert_eq!(laid_out.matches("Let").count(), NESTING_MAX);
    assert!(crate::expand(&generator, &crate::Environment::default()).unwrap().is_empty());
    assert!(fault(&generators(NESTING_MAX + 1)).contains("more than 320 brackets are open"));
    assert!(fault(&"(".repeat(5_000_000)).contains("more than 320 brackets are open"));
    let scripts = format!("{}NoOP{}", "In \"/\" [".repeat(NESTING_MAX), "]".repeat(NESTING_MAX));
    let script: Script = read(&scripts, 0).unwrap();
    assert!(!crate::runs_anything(&script));
    let trees = format!(
        "Sources [FromContent \"f\" (RenderYamlObject ({}ASTInt 1{}))] []",
        "ASTArr [".repeat(NESTING_MAX - 3),
        "]".repeat(NESTING_MAX - 3)
    );
    assert!(read::<ArtifactGenerator>(&trees, 0).is_ok());
}

#[test]
fn large_files_are_read_and_larger_ones_refused() {
    let items = format!("Let [] [{}EmptyArtifact]", "EmptyArtifact, ".repeat(350_000));
    assert!(items.len() > 5_000_000);
    assert!(read::<ArtifactGenerator>(&items, 0).is_ok());
    let string = format!("Artifact (IID \"{}\") (CloudInit [] \"o\")", "é\\n".repeat(1_500_000));
    assert!(read::<ArtifactGenerator>(&string, 0).is_ok());
    let huge = " ".repeat(FILE_BYTES_MAX + 1);
    assert!(fault(&huge).contains("more than 16 MiB"));
}
