//! Merging and visibility, on elements created by the test.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use plan::UploadKind;

use super::*;

struct Elements {
    root: tempfile::TempDir,
}

impl Elements {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn file(&self, element: &str, path: &str, text: &str) -> &Self {
        let file = self.root.path().join(element).join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn link(&self, element: &str, path: &str, target: &str) -> &Self {
        let link = self.root.path().join(element).join(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
        self
    }

    fn merge(&self, exclude: &[&str]) -> Result<Hooks, HookError> {
        let mut names: Vec<String> = fs::read_dir(self.root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let elements: Vec<Element> =
            names.iter().map(|name| element(self.root.path(), name)).collect();
        let exclude: Vec<String> = exclude.iter().map(|name| (*name).to_owned()).collect();
        Hooks::merge(&elements, &exclude)
    }
}

fn element(root: &Path, name: &str) -> Element {
    Element {
        name: name.to_owned(),
        path: root.join(name),
        root: root.to_owned(),
        leads_out: None,
        search_index: 0,
        provides: BTreeSet::new(),
        depends: Vec::new(),
    }
}

fn single(hooks: &Hooks, phase: Phase) -> Vec<&str> {
    hooks.single_scripts(phase).into_iter().map(|(name, _, _)| name).collect()
}

fn paths(hooks: &Hooks, visible: Visible) -> Vec<String> {
    hooks.part(visible).unwrap().into_iter().map(|entry| entry.path.to_string()).collect()
}

#[test]
fn all_directories_and_files_reach_the_hooks() {
    let elements = Elements::new();
    elements
        .file("a", "static/usr/x", "")
        .file("a", "bin/tool", "")
        .file("a", "tests/t", "")
        .file("a", "test-elements/t/x", "")
        .file("a", "bin/__pycache__/x.pyc", "")
        .file("a", "README.rst", "")
        .file("a", "custom/.hidden", "")
        .file("a", "pkg-map", "a")
        .file("b", "static/usr/y", "")
        .file("b", "pkg-map", "b");
    let hooks = elements.merge(&[]).unwrap();
    assert_eq!(
        paths(&hooks, Visible::FromTheStart),
        [
            "bin",
            "bin/tool",
            "custom",
            "pkg-map",
            "static",
            "static/usr",
            "static/usr/x",
            "static/usr/y",
        ]
    );
    // Of two elements with the same file at their top, the last one wins.
    let Found::File { host, .. } = &hooks.merged["pkg-map"] else { panic!() };
    assert_eq!(fs::read_to_string(host).unwrap(), "b");
}

#[test]
fn a_hook_of_two_elements_is_fatal_and_names_both() {
    let elements = Elements::new();
    elements.file("a", "install.d/10-x", "").file("b", "install.d/10-x", "").file(
        "c",
        "install.d/10-x",
        "",
    );
    let error = elements.merge(&[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "There is a duplicated hook in your elements: install.d/10-x in: a b\n\
         install.d/10-x in: a c"
    );
    let hooks = elements.merge(&["10-x"]).unwrap();
    assert_eq!(paths(&hooks, Visible::From(Phase::Install)), [""; 0]);
}

#[test]
fn excluded_scripts_are_gone_everywhere() {
    let elements = Elements::new();
    elements
        .file("a", "install.d/10-x", "")
        .file("a", "finalise.d/10-x", "")
        .file("a", "bin/10-x", "")
        .file("a", "10-x", "");
    let hooks = elements.merge(&["10-x", "unknown"]).unwrap();
    let left: Vec<&str> = hooks.merged.keys().map(plan::UnixPath::as_str).collect();
    assert_eq!(left, ["10-x", "bin", "finalise.d", "install.d"]);
}

#[test]
fn scripts_become_visible_with_their_phase() {
    let elements = Elements::new();
    elements
        .file("a", "environment.d/10-a", "")
        .file("a", "root.d/10-a", "")
        .file("a", "extra-data.d/10-a", "")
        .file("a", "install.d/10-a", "")
        .file("a", "install.d/10-a.conf", "")
        .file("a", "install.d/a-source-install/20-a", "")
        .file("a", "finalise.d/10-a", "# nothing of install.d in $TMP_HOOKS_PATH? no: finalise");
    let hooks = elements.merge(&[]).unwrap();
    assert_eq!(
        paths(&hooks, Visible::FromTheStart),
        [
            "environment.d",
            "environment.d/10-a",
            "extra-data.d",
            "finalise.d",
            "install.d",
            "root.d"
        ]
    );
    assert_eq!(
        paths(&hooks, Visible::From(Phase::ExtraData)),
        ["install.d/a-source-install", "install.d/a-source-install/20-a"]
    );
    // Other files are visible to all scripts of their phase.
    assert_eq!(paths(&hooks, Visible::From(Phase::Install)), ["install.d/10-a.conf"]);
    for phase in [Phase::Root, Phase::ExtraData, Phase::Install, Phase::Finalise] {
        assert_eq!(single(&hooks, phase), ["10-a"], "{phase:?}");
    }
    let names = ["10-a", "10-a.conf", "20-a", "environment.d/10-a"];
    let origins = names.map(|name| (name.to_owned(), "a".to_owned()));
    assert_eq!(hooks.origins(Phase::Install), BTreeMap::from(origins));
}

#[test]
fn scripts_that_others_of_their_phase_look_at_are_there_from_its_beginning() {
    let elements = Elements::new();
    elements
        .file("a", "install.d/9-a", "")
        .file("a", "install.d/10-a", ". $(dirname $0)/99-b\n# and 50-b\n")
        .file("b", "install.d/50-b", "")
        .file("b", "install.d/99-b", "")
        .file("b", "finalise.d/10-b", "ls $TMP_HOOKS_PATH/finalise.d\n")
        .file("b", "finalise.d/20-b", "")
        .file("b", "cleanup.d/20-b", "ls $TMP_HOOKS_PATH/root.d $TMP_HOOKS_PATH/bin\n")
        .file("b", "root.d/10-b", "");
    let hooks = elements.merge(&[]).unwrap();
    assert_eq!(single(&hooks, Phase::Install), ["9-a", "10-a", "50-b"]);
    assert_eq!(paths(&hooks, Visible::From(Phase::Install)), ["install.d/99-b"]);
    assert_eq!(single(&hooks, Phase::Finalise), [""; 0]);
    let both = ["finalise.d/10-b", "finalise.d/20-b"];
    assert_eq!(paths(&hooks, Visible::From(Phase::Finalise)), both);
    // A script that reads a phase after it finds only scripts that ran.
    assert_eq!(single(&hooks, Phase::Root), ["10-b"]);
    assert_eq!(single(&hooks, Phase::Cleanup), ["20-b"]);
}

#[test]
fn a_script_that_uses_another_phase_sees_it() {
    let elements = Elements::new();
    elements
        .file("a", "root.d/10-a", "rm $TMP_HOOKS_PATH/post-install.d/50-b\n")
        .file("b", "post-install.d/50-b", "")
        .file("b", "install.d/50-b", "");
    let hooks = elements.merge(&[]).unwrap();
    assert_eq!(paths(&hooks, Visible::From(Phase::Root)), ["post-install.d/50-b"]);
    assert_eq!(paths(&hooks, Visible::From(Phase::PostInstall)), [""; 0]);
    assert_eq!(single(&hooks, Phase::PostInstall), [""; 0]);
    assert_eq!(single(&hooks, Phase::Install), ["50-b"]);
    // The element's own tree follows the same schedule.
    let own: Vec<String> = hooks
        .element_part("b", Visible::From(Phase::Root))
        .unwrap()
        .into_iter()
        .map(|entry| entry.path.to_string())
        .collect();
    assert_eq!(own, ["post-install.d/50-b"]);
}

#[test]
fn phases_are_found_as_whole_names() {
    assert_eq!(mentioned("ls $TMP_HOOKS_PATH/pre-install.d"), [Phase::PreInstall]);
    assert_eq!(mentioned("ls $TMP_HOOKS_PATH/bin; # my-root.d"), []);
    assert_eq!(mentioned("ls /etc/install.d"), []);
    assert_eq!(mentioned(&without_comments("  # called by root.d\nls $TMP_HOOKS_PATH/bin")), []);
    assert_eq!(mentioned("ls /tmp/in_target.d/{install.d,root.d}"), [Phase::Root, Phase::Install]);
}

/// Symbolic links among the hooks, with their targets, for all times of visibility.
fn links(hooks: &Hooks) -> Vec<String> {
    let times = Phase::ALL.map(Visible::From);
    let all = [Visible::FromTheStart].into_iter().chain(times);
    let mut links: Vec<String> = all
        .flat_map(|visible| hooks.part(visible).unwrap())
        .filter_map(|entry| match entry.kind {
            UploadKind::Symlink(target) => Some(format!("{} -> {target}", entry.path)),
            _ => None,
        })
        .collect();
    links.sort();
    links
}

#[test]
fn links_reach_the_hooks_as_links_wherever_they_lead() {
    let elements = Elements::new();
    elements
        .file("a", "scripts/x", "")
        .link("a", "install.d/50-x", "../scripts/x")
        .link("a", "install.d/a-source-install", "../scripts")
        .link("a", "install.d/data", "/proc/self/environ")
        .link("a", "static/etc/localtime", "/usr/share/zoneinfo/UTC")
        .link("a", "static/etc/systemd/system/apt-daily.timer", "/dev/null")
        .link("a", "static/usr/lib/gone", "nowhere")
        .link("a", "static/usr/up", "../..")
        .link("a", "self", ".")
        .link("a", "pkg-map", "scripts/x")
        .link("a", "README.md", "../../README.md");
    let hooks = elements.merge(&[]).unwrap();
    let expected = [
        "README.md -> ../../README.md",
        "install.d/50-x -> ../scripts/x",
        "install.d/a-source-install -> ../scripts",
        "install.d/data -> /proc/self/environ",
        "pkg-map -> scripts/x",
        "self -> .",
        "static/etc/localtime -> /usr/share/zoneinfo/UTC",
        "static/etc/systemd/system/apt-daily.timer -> /dev/null",
        "static/usr/lib/gone -> nowhere",
        "static/usr/up -> ../..",
    ];
    assert_eq!(links(&hooks), expected);
    // The warning names the script that does not run because of the missing file.
    let [warning] = &hooks.warnings[..] else { panic!("{:?}", hooks.warnings) };
    assert!(warning.starts_with("`install.d/data` of the element a is a link"), "{warning}");
    assert!(warning.contains("`/proc/self/environ`"), "{warning}");
    // In extra-data.d, install-types looks for such directories and for links to them.
    let early = paths(&hooks, Visible::From(Phase::ExtraData));
    assert_eq!(early, ["install.d/a-source-install"]);
}

#[test]
fn a_script_that_is_too_large_to_be_searched_is_told() {
    let elements = Elements::new();
    let large = "x".repeat(1 << 20);
    elements
        .file("a", "install.d/10-a", &format!("#!/bin/sh\n{large}"))
        .file("a", "static/data", &large)
        .file("a", "static/more", &format!("{large}{large}"));
    let hooks = elements.merge(&[]).unwrap();
    let [warning] = &hooks.warnings[..] else { panic!("{:?}", hooks.warnings) };
    assert!(warning.starts_with("`install.d/10-a` of the element a has more than 1 MiB"));
}

#[test]
fn a_directory_of_hooks_may_be_a_link_beneath_the_search_path() {
    let elements = Elements::new();
    elements
        .file("a", "install.d/10-a", "a")
        .link("a", "pre-install.d", "install.d")
        .link("a", "cleanup.d", "../b/shared")
        .link("a", "finalise.d", "../../elsewhere")
        .file("b", "shared/20-b", "b")
        .file("b", "finalise.d/30-b", "b")
        .file("b", "pre-install.d/40-b", "b");
    let hooks = elements.merge(&[]).unwrap();
    assert_eq!(paths(&hooks, Visible::From(Phase::PreInstall)), ["pre-install.d/10-a"]);
    assert_eq!(paths(&hooks, Visible::From(Phase::Cleanup)), ["cleanup.d/20-b"]);
    // A script at a path that its element does not have is not uploaded separately.
    assert_eq!(single(&hooks, Phase::PreInstall), ["40-b"]);
    assert_eq!(single(&hooks, Phase::Cleanup), [""; 0]);
    assert_eq!(single(&hooks, Phase::Finalise), ["30-b"]);
    let [warning] = &hooks.warnings[..] else { panic!("{:?}", hooks.warnings) };
    assert!(warning.contains("`finalise.d` of the element a"), "{warning}");
    assert!(warning.contains("leads out of"), "{warning}");
    // The element's own tree is unchanged.
    let own = hooks.element_part("a", Visible::FromTheStart).unwrap();
    let is_link = |path: &str| {
        own.iter().any(|entry| entry.path == path && matches!(entry.kind, UploadKind::Symlink(_)))
    };
    assert!(is_link("pre-install.d") && is_link("cleanup.d") && is_link("finalise.d"));
}

#[test]
fn links_of_two_elements_collide_as_copying_them_would() {
    let same = Elements::new();
    same.link("a", "static/lib64", "usr/lib64").link("b", "static/lib64", "usr/lib64");
    assert_eq!(links(&same.merge(&[]).unwrap()), ["static/lib64 -> usr/lib64"]);
    let scripts = Elements::new();
    scripts.file("a", "bin/x", "").link("a", "install.d/1-x", "../bin/x");
    scripts.link("b", "install.d/1-x", "../bin/x");
    assert!(scripts.merge(&[]).is_err());
    for (directory, other) in [("a", "b"), ("b", "a")] {
        let elements = Elements::new();
        elements.file(directory, "static/usr/lib/x/y", "").link(other, "static/usr/lib/x", "/etc");
        let error = elements.merge(&[]).unwrap_err().to_string();
        assert!(error.contains("static/usr/lib/x in: a b"), "{error}");
    }
}

#[test]
fn names_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let elements = Elements::new();
    elements.file("a", "static/usr/share/doc/x", "");
    let latin = std::ffi::OsStr::from_bytes(b"caf\xe9");
    fs::write(elements.root.path().join("a/static/usr/share/doc").join(latin), "").unwrap();
    fs::write(elements.root.path().join("a").join(latin), "").unwrap();
    let hooks = elements.merge(&[]).unwrap();
    let entries = hooks.part(Visible::FromTheStart).unwrap();
    let names: Vec<_> = entries.iter().map(|entry| entry.path.bytes().into_owned()).collect();
    assert!(names.contains(&b"static/usr/share/doc/caf\xe9".to_vec()), "{names:?}");
    assert!(names.contains(&b"caf\xe9".to_vec()), "{names:?}");
}
