//! Which folders are layers.

use super::*;

/// Reads a project that names only its own files.
pub(crate) fn read_own(folder: &Path) -> Result<Project, ProjectError> {
    read(folder, sources(folder))
}

pub(crate) fn sources(folder: &Path) -> Sources {
    let own = vec![folder.to_owned()];
    Sources { lookup: own.clone(), own, ..Sources::default() }
}

/// Creates a project from scripts, given as path and content.
pub(crate) fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let mode = if content.starts_with("#!") { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    folder
}

#[test]
fn layers_are_folders_with_digits_and_a_script() {
    let folder = project(&[
        ("20_app/build-layer", "#!/bin/sh\n# noshare\n"),
        ("05_resize/modify-disk", "#!/bin/sh\n"),
        ("100_last/build-layer", "#!/bin/sh\n# nocache\n"),
        ("100_last/modify-disk", "#!/bin/sh\n"),
        ("5_one-digit/build-layer", "#!/bin/sh\n"),
        ("30-dash/build-layer", "#!/bin/sh\n"),
        ("40_empty/README", "nothing"),
        ("50_file", "no folder"),
    ]);
    let project = read_own(folder.path()).unwrap();
    let layers: Vec<_> =
        project.layers.iter().map(|layer| (layer.name.as_str(), layer.kind)).collect();
    // Sorted as text, as in vm-layer-builder.
    assert_eq!(
        layers,
        [
            ("05_resize", Kind::ModifyDisk),
            ("100_last", Kind::BuildLayer),
            ("20_app", Kind::BuildLayer),
        ]
    );
    assert!(project.layers[1].hints.nocache && project.layers[2].hints.noshare);
    assert_eq!(project.warnings.len(), 1);
    let last = |name: &str| project.up_to(Some(name)).map(<[Layer]>::len);
    assert_eq!(last("100_last/").unwrap(), 2);
    assert_eq!(last("./05_resize").unwrap(), 1);
    let error = last("99_x").unwrap_err().to_string();
    assert_eq!(error, "there is no layer `99_x`; the layers are 05_resize, 100_last, 20_app");
}

#[test]
fn what_cannot_be_built_is_refused() {
    let empty = project(&[("README", "x")]);
    assert!(matches!(read_own(empty.path()), Err(ProjectError::Empty(_))));
    let plain = project(&[("10_a/build-layer", "echo no shebang, no mode\n")]);
    assert!(matches!(read_own(plain.path()), Err(ProjectError::NotExecutable(_))));
    let hint = project(&[("10_a/build-layer", "#!/bin/sh\n# chroot-bind-mount x\n")]);
    let error = read_own(hint.path()).unwrap_err().to_string();
    assert!(error.contains("10_a/build-layer:2: a chroot-bind-mount has"), "{error}");
    let config =
        project(&[("10_a/build-layer", "#!/bin/sh\n"), ("vbuild.yaml", "timeouts:\n  11_b: 3s\n")]);
    assert!(matches!(read_own(config.path()), Err(ProjectError::UnknownTimeout { .. })));
}

#[test]
fn no_layer_is_left_out_without_a_word() {
    use std::os::unix::{ffi::OsStrExt, fs::symlink};
    let folder = project(&[("10_a/build-layer", "#!/bin/sh\n")]);
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(folder.path().join(std::ffi::OsStr::from_bytes(b"20_caf\xe9"))).unwrap();
    let found = read_own(folder.path()).unwrap();
    assert!(found.warnings[0].contains("no UTF-8 text"), "{:?}", found.warnings);
    // A link to itself: root may enter directories without any permission.
    symlink("30_b", at("30_b")).unwrap();
    let error = read_own(folder.path()).unwrap_err();
    assert!(matches!(&error, ProjectError::Source(SourceError::Unreadable { .. })), "{error}");
    fs::remove_file(at("30_b")).unwrap();
    let script = fs::File::options().write(true).open(at("10_a/build-layer")).unwrap();
    script.set_len(SCRIPT_MAX_BYTES + 1).unwrap();
    let error = read_own(folder.path()).unwrap_err().to_string();
    assert!(error.contains("10_a/build-layer has more than 64 MiB"), "{error}");
}

#[test]
fn a_new_layer_is_a_layer() {
    let folder = tempfile::tempdir().unwrap();
    new_layer(folder.path(), "30_mine").unwrap();
    assert_eq!(read_own(folder.path()).unwrap().layers[0].name, "30_mine");
    assert!(matches!(new_layer(folder.path(), "30_mine/"), Err(NewLayerError::Exists(_))));
    for bad in ["3_x", "30", "30_", "30-x", "a/30_x", "../30_x", "30_a/b"] {
        assert!(matches!(new_layer(folder.path(), bad), Err(NewLayerError::Name(_))), "{bad}");
    }
}

#[test]
fn layers_and_their_scripts_are_the_projects_own() {
    use std::os::unix::fs::symlink;
    let outside =
        project(&[("10_theirs/build-layer", "#!/bin/sh\n"), ("secret.yaml", "size: 1G\n")]);
    let folder = project(&[
        ("10_a/build-layer", "#!/bin/sh\n"),
        ("common/20_b/scripts/build", "#!/bin/sh\n"),
    ]);
    let at = |path: &str| folder.path().join(path);
    // A layer that is a link within the project, with a script that is a link within the layer.
    symlink("common/20_b", at("20_b")).unwrap();
    symlink("scripts/build", at("common/20_b/build-layer")).unwrap();
    let project = read_own(folder.path()).unwrap();
    let names: Vec<&str> = project.layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(names, ["10_a", "20_b"]);
    // A script that would be missing in the guest.
    fs::remove_file(at("common/20_b/build-layer")).unwrap();
    symlink("../../10_a/build-layer", at("common/20_b/build-layer")).unwrap();
    let error = read_own(folder.path()).unwrap_err();
    assert!(matches!(error, ProjectError::ScriptElsewhere { .. }), "{error}");
    fs::remove_file(at("common/20_b/build-layer")).unwrap();
    symlink(outside.path().join("10_theirs/build-layer"), at("common/20_b/build-layer")).unwrap();
    let error = read_own(folder.path()).unwrap_err();
    assert!(matches!(error, ProjectError::ScriptElsewhere { .. }), "{error}");
    fs::remove_file(at("20_b")).unwrap();
    // A layer of a third party counts only if the user allows it.
    symlink(outside.path().join("10_theirs"), at("30_c")).unwrap();
    let error = read_own(folder.path()).unwrap_err();
    assert!(matches!(&error, ProjectError::Source(SourceError::Outside { .. })), "{error}");
    let mut allowed = sources(folder.path());
    allowed.allowed.push(outside.path().join("10_theirs"));
    assert_eq!(read(folder.path(), allowed).unwrap().layers.len(), 2);
    fs::remove_file(at("30_c")).unwrap();
    symlink(outside.path().join("secret.yaml"), at(CONFIG_FILE)).unwrap();
    assert!(matches!(read_own(folder.path()), Err(ProjectError::Source(_))));
}
