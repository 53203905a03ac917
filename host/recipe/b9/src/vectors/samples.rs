//! The samples of `tests/b9`: parsed, laid out, expanded, checked and rendered.

use std::{io, path::PathBuf};

use crate::{
    Environment, File, Files, Images, Inputs, Instance, Origin, Renderer, check, expand, read,
    reformatted,
};

/// The directory of the samples.
struct Folder(PathBuf);

impl Inputs for Folder {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.0.join(path))
    }

    fn fetch(&self, url: &str) -> Result<Vec<u8>, String> {
        panic!("no sample fetches {url}")
    }
}

fn folder() -> Folder {
    Folder(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../tests/b9"))
}

fn file(name: &str) -> Files {
    let text = String::from_utf8(folder().read(name).unwrap()).unwrap();
    Files(vec![File { name: name.into(), text }])
}

fn instances(name: &str, arguments: &[&str]) -> Result<Vec<Instance>, String> {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let run = [("build_id", "0A-0B"), ("build_date", "2030-01-02-03:04:05")];
    let files = file(name);
    let generator = read(&files).map_err(|fault| files.show(&fault))?;
    expand(&generator, &Environment::new(&arguments, &run)).map_err(|fault| files.show(&fault))
}

/// Every generated file of an instance.
fn rendered(instance: &Instance) -> Vec<(String, String)> {
    let folder = folder();
    let mut renderer =
        Renderer { inputs: &folder, environment: &instance.environment, warnings: Vec::new() };
    instance
        .sources
        .iter()
        .map(|source| {
            let bytes = match &source.origin {
                Origin::Content(content) => renderer.content(content),
                Origin::File { path, conversion } => renderer.file(path, *conversion),
            };
            let text = String::from_utf8(bytes.unwrap()).unwrap();
            (source.destination.text.clone(), text)
        })
        .collect()
}

fn expected(path: &str) -> String {
    String::from_utf8(folder().read(&format!("expected/{path}")).unwrap()).unwrap()
}

const ALL: [&str; 8] = [
    "01-empty-disk.b9",
    "02-seed.b9",
    "03-merge-config.b9",
    "04-install.b9",
    "05-partition.b9",
    "06-share-base.b9",
    "07-matrix.b9",
    "08-fixup-transient.b9",
];

/// Rows 12 and 13.
#[test]
fn samples_are_laid_out_the_same_twice() {
    for name in ALL {
        let once = reformatted(&file(name), 0).unwrap();
        let again = Files(vec![File { name: name.into(), text: once.clone() }]);
        assert_eq!(reformatted(&again, 0).unwrap(), once, "{name}");
    }
}

#[test]
fn samples_have_no_faults() {
    for (name, ids) in [
        ("01-empty-disk.b9", vec!["blank"]),
        ("02-seed.b9", vec!["seed-web-01"]),
        ("03-merge-config.b9", vec!["cfg-test", "cfg-prod"]),
        ("04-install.b9", vec!["install"]),
        ("05-partition.b9", vec!["part-1", "part-2"]),
        ("06-share-base.b9", vec!["demo-base"]),
        (
            "07-matrix.b9",
            ["db-qa", "web-qa", "db-prod", "web-prod"]
                .iter()
                .flat_map(|vm| [format!("seed-{vm}"), format!("disk-{vm}")])
                .map(|id| &*id.leak())
                .collect(),
        ),
        ("08-fixup-transient.b9", vec!["compile", "stamp"]),
    ] {
        let instances = instances(name, &["r42"]).unwrap();
        let found: Vec<&str> = instances.iter().map(|instance| instance.id.text.as_str()).collect();
        assert_eq!(found, ids, "{name}");
        let findings = check(&instances);
        assert_eq!(findings.faults, [], "{name}");
        // Sample 03 generates files that are not for cloud-init.
        assert_eq!(findings.warnings.len(), if name.starts_with("03") { 2 } else { 0 }, "{name}");
    }
}

#[test]
fn generated_files_are_those_of_b9() {
    let seed = rendered(&instances("02-seed.b9", &[]).unwrap()[0]);
    assert_eq!(seed.len(), 3);
    for (name, text) in seed {
        assert_eq!(text, expected(&format!("02/{name}")), "{name}");
    }
    for instance in instances("03-merge-config.b9", &[]).unwrap() {
        let env = instance.environment.get("env").unwrap().to_owned();
        for (name, text) in
            rendered(&instance).into_iter().filter(|(name, _)| !name.starts_with("etc/"))
        {
            assert_eq!(text, expected(&format!("03/{env}/{name}")), "{env}/{name}");
        }
    }
    for instance in instances("07-matrix.b9", &["r42"]).unwrap() {
        let vm = instance.environment.get("vm").unwrap().to_owned();
        let files = rendered(&instance);
        assert_eq!(files[0], ("user-data".into(), expected(&format!("07/{vm}.user-data"))), "{vm}");
    }
}

#[test]
fn scripts_are_those_of_b9() {
    let instance = &instances("04-install.b9", &[]).unwrap()[0];
    let script = Images::of(&instance.assembly).unwrap().running_script().unwrap();
    assert_eq!(crate::to_container_bash(script), expected("04/run.sh").trim_end_matches('\n'));
}

/// Row 23: without the argument nothing is built.
#[test]
fn a_missing_argument_is_told_with_its_place() {
    let message = instances("07-matrix.b9", &[]).unwrap_err();
    assert!(
        message.starts_with("07-matrix.b9:3:53: Invalid template parameter: \"arg_1\"."),
        "{message}"
    );
    assert!(message.contains("behind `--` on the command line"), "{message}");
}
