//! Faults and warnings that are reported before anything happens.

use crate::{Environment, check, expand, haskell, types::ArtifactGenerator};

/// All faults and all warnings of a file.
fn findings(text: &str) -> (Vec<String>, Vec<String>) {
    let generator: ArtifactGenerator = haskell::read(text, 0).unwrap();
    let found = check(&expand(&generator, &Environment::default()).unwrap());
    let messages = |faults: Vec<crate::Fault>| faults.iter().map(ToString::to_string).collect();
    (messages(found.faults), messages(found.warnings))
}

#[track_caller]
fn refused(text: &str, wanted: &[&str]) {
    let (faults, _) = findings(text);
    assert_eq!(faults.len(), wanted.len(), "{faults:?}");
    for (fault, wanted) in faults.iter().zip(wanted) {
        assert!(fault.contains(wanted), "`{wanted}` is not in `{fault}`");
    }
}

fn images(targets: &str, script: &str) -> String {
    format!("Artifact (IID \"a\") (VmImages [{targets}] ({script}))")
}

fn empty(label: &str, filesystem: &str, size: &str) -> String {
    format!(
        "ImageTarget Transient (EmptyImage \"{label}\" {filesystem} Raw (ImageSize {size})) NotMounted"
    )
}

/// Rows 8, 78, 80.
#[test]
fn empty_images() {
    refused(&images(&empty("d", "Ext4", "-1 GB"), "NoVmScript"), &["the size -1 is not valid"]);
    refused(&images(&empty("d", "Ext4", "0 KB"), "NoVmScript"), &["the size 0 is not valid"]);
    refused(&images(&empty("d", "Ext4", "9999999999 GB"), "NoVmScript"), &["the size 9999999999"]);
    refused(&images(&empty("d", "ISO9660", "1 MB"), "NoVmScript"), &["cannot be ISO9660"]);
    refused(&images(&empty("d", "NoFileSystem", "1 KB"), "NoVmScript"), &[]);
    refused(&images(&empty("d", "VFAT", "1 MB"), "NoVmScript"), &[]);
    let long = "12345678901234567";
    refused(&images(&empty(long, "Ext4_64", "1 MB"), "NoVmScript"), &["more than 16 bytes"]);
    refused(&images(&empty("123456789012", "VFAT", "1 MB"), "NoVmScript"), &["more than 11 bytes"]);
}

/// Row 76.
#[test]
fn only_ext4_is_resized() {
    for (filesystem, resize, ok) in [
        ("VFAT", "(Resize (ImageSize 1 MB))", false),
        ("ISO9660", "ShrinkToMinimum", false),
        ("NoFileSystem", "(ShrinkToMinimumAndIncrease (ImageSize 1 MB))", false),
        ("VFAT", "(ResizeImage (ImageSize 1 MB))", true),
        ("VFAT", "KeepSize", true),
        ("Ext4_64", "ShrinkToMinimum", true),
    ] {
        let source = format!(
            "ImageTarget Transient (SourceImage (Image \"i\" Raw {filesystem}) NoPT {resize}) NotMounted"
        );
        let destination = format!(
            "ImageTarget (LocalFile (Image \"o\" Raw Ext4) {resize}) (CopyOnWrite (Image \"i\" Raw {filesystem})) NotMounted"
        );
        for target in [source, destination] {
            let wanted: &[&str] = if ok { &[] } else { &["cannot resize image"] };
            refused(&images(&target, "NoVmScript"), wanted);
        }
    }
}

/// Rows 96 and 97: required only if the script runs a command.
#[test]
fn one_image_is_the_root() {
    let at = |path: &str| {
        format!(
            "ImageTarget Transient (EmptyImage \"d\" Ext4 Raw (ImageSize 1 MB)) (MountPoint \"{path}\")"
        )
    };
    let script = "VmScript X86_64 [] (Run \"true\" [])";
    refused(&images(&at("/x"), script), &["requires that a disk image for the root-"]);
    refused(&images(&[at("/"), at("//")].join(","), script), &["only one disk image"]);
    refused(
        &images(&[at("/"), at("/a"), at("/a/")].join(","), script),
        &["two images are mounted"],
    );
    refused(&images(&[at("/"), at("a")].join(","), script), &["must be absolute"]);
    refused(&images(&[at("/"), at("/a/../b")].join(","), script), &["must be absolute"]);
    refused(&images(&at("/x"), "VmScript X86_64 [] (Begin [])"), &[]);
}

/// Rows 31, 32, 38, 40, 58, 145.
#[test]
fn sources_and_names() {
    let file = |destination: &str| {
        format!(
            "Sources [FromContent \"{destination}\" (FromString \"\")] [Artifact (IID \"a\") (CloudInit [] \"o\")]"
        )
    };
    for destination in ["/etc/passwd", "../x", "a/../../b", "", "."] {
        refused(&file(destination), &["is not within the artifact's directory"]);
    }
    refused(&file("a/./b"), &[]);
    for id in ["a/b", "..", "."] {
        refused(
            &format!("Artifact (IID \"{id}\") (CloudInit [] \"o\")"),
            &["part of a file's name"],
        );
    }
    let permissions = "Sources [SetPermissions 7 8 0 [FromContent \"f\" (FromString \"\")]] [Artifact (IID \"a\") (CloudInit [] \"o\")]";
    refused(permissions, &["Bad 'group' permission 8"]);
    let merge = "Sources [FromContent \"f\" (RenderErlang (ASTArr [ASTMerge []]))] [Artifact (IID \"a\") (CloudInit [] \"o\")]";
    refused(merge, &["ASTMerge MUST NOT be used with an empty list!"]);
    let share = "ImageTarget (Share \"b\" Raw KeepSize) (EmptyImage \"d\" Ext4 Raw (ImageSize 1 MB)) NotMounted";
    refused(&images(&[share, share].join(","), "NoVmScript"), &["already shared in this build"]);
    let replaced = "ImageTarget (LocalFile (Image \"./i\" Raw Ext4) KeepSize) (SourceImage (Image \"i\" Raw Ext4) NoPT KeepSize) NotMounted";
    refused(&images(replaced, "NoVmScript"), &["would be replaced"]);
}

/// Rows 40 and 63.
#[test]
fn warnings() {
    let (faults, warnings) = findings(
        "Sources [FromContent \"f\" (FromString \"1\"), FromContent \"./f\" (FromString \"2\")] [Artifact (IID \"a\") (CloudInit [CI_DIR] \"o\")]",
    );
    assert!(faults.is_empty());
    assert!(warnings[0].contains("generated twice"), "{warnings:?}");
    assert!(warnings[1].contains("no meta-data and no user-data"), "{warnings:?}");
    let (_, warnings) = findings("Artifact (IID \"a\") (CloudInit [CI_ISO] \"o\")");
    assert!(warnings[0].contains("`a` is empty"), "{warnings:?}");
    assert!(findings("Artifact (IID \"a\") (CloudInit [] \"o\")").1.is_empty());
}
