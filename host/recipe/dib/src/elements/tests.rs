//! The dependency rules, checked with the data of the original's own tests.

use std::{fs, os::unix::fs::symlink};

use super::*;

/// The elements of the original's tests: name, dependencies, provides.
const TREE: &[(&str, &[&str], &[&str])] = &[
    ("requires-foo", &["foo"], &[]),
    ("foo", &[], &["operating-system"]),
    ("requires-requires-foo", &["requires-foo"], &[]),
    ("self", &["self"], &[]),
    ("provides_virtual", &[], &["virtual"]),
    ("also_provides_virtual", &[], &["virtual"]),
    ("requires_virtual", &["virtual"], &["operating-system"]),
    ("virtual", &["extra_dependency"], &[]),
    ("extra_dependency", &[], &[]),
    ("circular1", &["circular2"], &["operating-system"]),
    ("circular2", &["circular1"], &[]),
    ("provides_new_virtual", &[], &["new_virtual", "operating-system"]),
    ("requires_new_virtual", &["new_virtual"], &[]),
    ("override_element", &[], &[]),
    ("wants_absent", &["absent"], &["operating-system"]),
];

struct Tree {
    _root: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

fn element(directory: &Path, name: &str, depends: &[&str], provides: &[&str]) {
    let home = directory.join(name);
    fs::create_dir_all(&home).unwrap();
    // Whitespace at the end of a line is ignored.
    let depends: String = depends.iter().map(|name| format!("{name} \t\n")).collect();
    fs::write(home.join("element-deps"), depends).unwrap();
    fs::write(home.join("element-provides"), provides.join("\n")).unwrap();
}

fn tree() -> Tree {
    let root = tempfile::tempdir().unwrap();
    let first = fs::canonicalize(root.path()).unwrap().join("override");
    let second = first.with_file_name("elements");
    for (name, depends, provides) in TREE {
        element(&second, name, depends, provides);
    }
    element(&first, "override_element", &[], &[]);
    Tree { _root: root, paths: vec![first, second] }
}

fn expand(requested: &[&str]) -> Result<Vec<String>, String> {
    let tree = tree();
    let requested: Vec<String> = requested.iter().map(|name| (*name).to_owned()).collect();
    Catalogue::load(&tree.paths)
        .unwrap()
        .expand(&requested)
        .map(|elements| elements.into_iter().map(|element| element.name).collect())
        .map_err(|error| error.to_string())
}

fn names(names: &[&str]) -> Result<Vec<String>, String> {
    Ok(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn dependencies_are_followed() {
    assert_eq!(expand(&["requires-foo"]), names(&["foo", "requires-foo"]));
    assert_eq!(
        expand(&["requires-requires-foo"]),
        names(&["foo", "requires-foo", "requires-requires-foo"])
    );
    assert_eq!(expand(&["foo"]), names(&["foo"]));
}

#[test]
fn a_list_is_read_as_a_whole_or_refused() {
    let tree = tree();
    let list = tree.paths[1].join("foo/element-deps");
    fs::write(&list, "\n".repeat(1 << 20)).unwrap();
    Catalogue::load(&tree.paths).unwrap();
    fs::write(&list, "\n".repeat(1 << 20) + "requires-foo\n").unwrap();
    let error = Catalogue::load(&tree.paths).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("longer than 1 MiB"), "{error}: {cause}");
}

#[test]
fn circles_are_legal() {
    assert_eq!(expand(&["self", "foo"]), names(&["foo", "self"]));
    assert_eq!(expand(&["circular1"]), names(&["circular1", "circular2"]));
}

#[test]
fn a_provided_name_is_not_an_element() {
    assert_eq!(
        expand(&["provides_virtual", "requires_virtual"]),
        names(&["provides_virtual", "requires_virtual"])
    );
    for order in [
        ["requires_new_virtual", "provides_new_virtual"],
        ["provides_new_virtual", "requires_new_virtual"],
    ] {
        assert_eq!(expand(&order), names(&["provides_new_virtual", "requires_new_virtual"]));
    }
}

#[test]
fn an_unprovided_virtual_is_the_element_of_that_name() {
    assert_eq!(
        expand(&["requires_virtual"]),
        names(&["extra_dependency", "requires_virtual", "virtual"])
    );
}

#[test]
fn messages_are_those_of_the_original() {
    let fails = |elements: &[&str]| expand(elements).unwrap_err();
    assert_eq!(fails(&["fake"]), "Element 'fake' not found");
    assert_eq!(fails(&["wants_absent"]), "Element 'absent' not found");
    assert_eq!(
        fails(&["provides_virtual", "also_provides_virtual"]),
        "virtual: already provided by ['provides_virtual']"
    );
    assert_eq!(fails(&["provides_virtual"]), "Please include an operating system element");
    assert_eq!(
        fails(&["circular1", "operating-system"]),
        "The following elements are already provided by another element\n\
         operating-system : already provided by ['circular1']"
    );
    assert_eq!(
        fails(&["virtual", "provides_virtual", "foo"]),
        "The following elements are already provided by another element\n\
         virtual : already provided by ['provides_virtual']"
    );
    // Two operating systems are two providers.
    assert_eq!(fails(&["foo", "circular1"]), "operating-system: already provided by ['foo']");
}

#[test]
fn the_first_directory_wins() {
    let tree = tree();
    let catalogue = Catalogue::load(&tree.paths).unwrap();
    let element = catalogue.get("override_element").unwrap();
    assert_eq!(element.path, tree.paths[0].join("override_element"));
    assert_eq!(element.search_index, 0);
    assert_eq!(
        catalogue.warnings,
        [format!(
            "Element <{}> overrides <{}>",
            tree.paths[0].join("override_element").display(),
            tree.paths[1].join("override_element").display()
        )]
    );
}

#[test]
fn a_path_that_is_no_directory_is_an_error() {
    let error = Catalogue::load(&["/not/a/dir".into()]).unwrap_err();
    assert_eq!(error.to_string(), "ELEMENTS_PATH entry '/not/a/dir' is not a directory");
}

fn request(elements: &[&str], change: impl FnOnce(&mut DibOptions)) -> Vec<String> {
    let mut options = DibOptions {
        elements: elements.iter().map(|name| (*name).to_owned()).collect(),
        ..DibOptions::default()
    };
    change(&mut options);
    let arch = options.arch.clone().unwrap_or_else(|| "amd64".into());
    requested(&options, &arch)
}

#[test]
fn what_is_added_to_the_request() {
    assert_eq!(request(&["debian", "vm"], |_| ()), ["base", "debian", "vm", "block-device-mbr"]);
    assert_eq!(
        request(&["debian", "vm"], |options| options.arch = Some("arm64".into())),
        ["base", "debian", "vm", "block-device-efi"]
    );
    assert_eq!(
        request(&["vm", "block-device-gpt"], |options| options.skip_base = true),
        ["vm", "block-device-gpt"]
    );
    assert_eq!(
        request(&["debian"], |options| options.ramdisk = true),
        ["ramdisk", "base", "debian"]
    );
    assert_eq!(
        request(&["debian"], |options| {
            options.ramdisk = true;
            options.ramdisk_element = Some("dracut-ramdisk".into());
        }),
        ["dracut-ramdisk", "base", "debian"]
    );
}

#[test]
fn the_real_expansion_agrees() {
    let Some(located) = crate::real::located() else { return };
    let catalogue = Catalogue::load(&located.elements).unwrap();
    let names = |line: &str| line.split(' ').map(ToOwned::to_owned).collect::<Vec<String>>();
    let efi = "base debian-minimal vm block-device-efi";
    let expanded = catalogue.expand(&names(efi)).unwrap();
    assert_eq!(
        expanded.iter().map(|element| element.name.as_str()).collect::<Vec<_>>().join(" "),
        "base block-device-efi bootloader debian-minimal debootstrap dib-init-system dpkg \
         install-bin install-types manifests modprobe package-installs pkg-map sysprep vm"
    );
    let mut requests = vec![efi.to_owned()];
    for name in catalogue.elements.keys().filter(|name| !name.starts_with("__")) {
        requests.push(name.clone());
        // The original refuses a duplicate name.
        if !matches!(name.as_str(), "base" | "debian-minimal" | "block-device-mbr") {
            requests.push(format!("base {name} debian-minimal block-device-mbr"));
        }
    }
    let oracle = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/elements_oracle.py");
    let python = std::process::Command::new("python3")
        .env("PYTHONHASHSEED", "0")
        .args([oracle.as_ref(), located.package.parent().unwrap()])
        .args(&requests)
        .output();
    let output = match python {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains("ModuleNotFoundError"), "{text}");
            println!("skipped: {}", text.lines().last().unwrap_or_default());
            return;
        }
        Err(error) => {
            println!("skipped: python3: {error}");
            return;
        }
    };
    assert_eq!(output.lines().count(), requests.len());
    let mut agreed = 0;
    for (request, line) in requests.iter().zip(output.lines()) {
        let real: serde_json::Value = serde_json::from_str(line).unwrap();
        match (catalogue.expand(&names(request)), real.get("elements")) {
            (Ok(ours), Some(real)) => {
                let ours: Vec<&str> = ours.iter().map(|element| element.name.as_str()).collect();
                assert_eq!(serde_json::Value::from(ours), *real, "{request}");
                agreed += 1;
            }
            (Err(ours), None) => {
                // If there are two errors, the one that the original reports depends on chance.
                let real = real["error"].as_str().unwrap();
                if real.contains("not found") || real.contains("operating system") {
                    assert_eq!(ours.to_string(), real, "{request}");
                }
            }
            (ours, _) => panic!("{request}: {ours:?} and {real}"),
        }
    }
    assert!(agreed > 100, "{agreed}");
}

#[test]
fn an_element_that_is_a_link_must_stay_beneath_the_search_path() {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    let (search, outside) = (root.join("elements"), root.join("outside"));
    element(&search.join("group"), "grouped", &[], &["operating-system"]);
    element(&outside, "secrets", &[], &["operating-system"]);
    symlink("group/grouped", search.join("near")).unwrap();
    symlink("../outside/secrets", search.join("far")).unwrap();
    symlink(".", search.join("self")).unwrap();
    symlink("nowhere", search.join("gone")).unwrap();
    let catalogue = Catalogue::load(std::slice::from_ref(&search)).unwrap();
    assert_eq!(catalogue.get("grouped").unwrap().path, search.join("group/grouped"));
    assert!(catalogue.get("secrets").is_none());
    let error = catalogue.expand(&["far".into()]).unwrap_err();
    assert!(matches!(&error, ElementError::LeadsOut(_)), "{error}");
    assert!(error.to_string().contains("elements/far` is a link that leads out of"), "{error}");
    let error = catalogue.expand(&["gone".into()]).unwrap_err();
    assert!(matches!(error, ElementError::Missing { .. }), "{error}");
    // Named on the command line, the other directory is chosen by the user.
    let catalogue = Catalogue::load(&[search, outside]).unwrap();
    assert!(catalogue.get("secrets").is_some());
}

#[test]
fn lists_are_read_through_links_that_stay_beneath_the_search_path() {
    let folder = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(folder.path()).unwrap();
    let search = root.join("elements");
    for name in ["one", "two", "three"] {
        element(&search, name, &[], &["operating-system"]);
        fs::remove_file(search.join(name).join("element-deps")).unwrap();
    }
    fs::write(search.join("deps"), "dependency\n").unwrap();
    fs::write(root.join("secret"), "root:x:0:0\n").unwrap();
    symlink("../deps", search.join("one/element-deps")).unwrap();
    symlink("../../secret", search.join("two/element-deps")).unwrap();
    symlink("nowhere", search.join("three/element-deps")).unwrap();
    let catalogue = Catalogue::load(&[search]).unwrap();
    assert_eq!(catalogue.get("one").unwrap().depends, ["dependency"]);
    assert_eq!(catalogue.get("three").unwrap().depends, [""; 0]);
    // A link that leads out becomes an error only if its element is used, and nothing is read
    // through it.
    let error = catalogue.expand(&["two".into()]).unwrap_err();
    assert!(error.to_string().contains("two/element-deps` is a link that leads out"), "{error}");
    assert!(!error.to_string().contains("root:x"), "{error}");
}
