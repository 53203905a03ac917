//! Tests of the environment of each phase.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use super::*;

fn element(name: &str) -> Element {
    Element {
        name: name.to_owned(),
        path: PathBuf::from("/somewhere").join(name),
        root: PathBuf::from("/somewhere"),
        leads_out: None,
        search_index: 1,
        provides: BTreeSet::new(),
        depends: Vec::new(),
    }
}

fn environment(options: &DibOptions, phase: Phase) -> Vec<(String, Value)> {
    environment_of(options, phase, &BTreeSet::new())
}

fn environment_of(
    options: &DibOptions,
    phase: Phase,
    named: &BTreeSet<&'static str>,
) -> Vec<(String, Value)> {
    let settings = Settings::resolve(options).unwrap();
    let symbols = Symbols {
        root_label: "root".into(),
        root_fstype: "ext4".into(),
        boot_label: String::new(),
        mount_points: vec!["/boot/efi".into(), "/".into()],
    };
    Environment {
        options,
        settings: &settings,
        elements: &[element("base"), element("debian")],
        symbols: &symbols,
        image_name: "my image",
        size_kib: None,
        root_uuid: "u",
        search_paths: 2,
        named,
    }
    .of(phase)
}

fn text(env: &[(String, Value)], name: &str) -> Option<String> {
    env.iter().find(|(known, _)| known == name).map(|(_, value)| match value {
        Value::Text(text) => text.clone(),
        Value::Fact(fact) => format!("<{fact}>"),
    })
}

fn variables(list: &[(&str, &str)]) -> DibOptions {
    DibOptions {
        envvars: list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect(),
        ..DibOptions::default()
    }
}

#[test]
fn what_differs_between_phases() {
    let options = DibOptions::default();
    for phase in Phase::ALL {
        let env = environment(&options, phase);
        let target = matches!(phase, Phase::Root | Phase::Cleanup)
            .then(|| "/build/dib_build.0/mnt".to_owned());
        assert_eq!(text(&env, "TARGET_ROOT"), target, "{phase:?}");
        let home = if phase.is_inside() { "/root" } else { "/helper/home" };
        assert_eq!(text(&env, "HOME").as_deref(), Some(home), "{phase:?}");
        let device = text(&env, "IMAGE_BLOCK_DEVICE");
        assert_eq!(device.is_some(), phase >= Phase::PreFinalise, "{phase:?}");
        let size = text(&env, "DIB_IMAGE_SIZE");
        assert_eq!(size.is_some(), phase >= Phase::BlockDevice, "{phase:?}");
        let path = text(&env, "PATH").unwrap();
        for directory in
            ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        {
            assert!(path.split(':').any(|part| part == directory), "{path}");
        }
        assert_eq!(text(&env, "TMPDIR"), None);
        assert_eq!(text(&env, "LC_ALL").as_deref(), Some("C"));
        assert_eq!(text(&env, "PYTHONHASHSEED").as_deref(), Some("0"), "sets in one order");
    }
}

#[test]
fn variables_about_places_outside_do_not_enter_the_image() {
    let options = variables(&[("TMPDIR", "/nowhere"), ("VIRTUAL_ENV", "/venv"), ("KEPT", "1")]);
    for phase in Phase::ALL {
        let env = environment(&options, phase);
        for name in ["TMPDIR", "VIRTUAL_ENV"] {
            assert_eq!(text(&env, name).is_some(), !phase.is_inside(), "{phase:?} {name}");
        }
        assert_eq!(text(&env, "KEPT").as_deref(), Some("1"));
    }
}

#[test]
fn the_builds_variables_win_over_the_users() {
    let options =
        variables(&[("ARCH", "amd64"), ("HOME", "/x"), ("IMAGE_NAME", "x"), ("FOO", "a b\"$c")]);
    let env = environment(&options, Phase::Install);
    assert_eq!(text(&env, "HOME").as_deref(), Some("/root"));
    assert_eq!(text(&env, "IMAGE_NAME").as_deref(), Some("my image"));
    assert_eq!(text(&env, "FOO").as_deref(), Some("a b\"$c"));
    let names: Vec<&String> = env.iter().map(|(name, _)| name).collect();
    let unique: BTreeSet<&String> = names.iter().copied().collect();
    assert_eq!(names.len(), unique.len());
}

#[test]
fn offline_is_set_and_empty_by_default() {
    let env = environment(&DibOptions::default(), Phase::Root);
    assert_eq!(text(&env, "DIB_OFFLINE").as_deref(), Some(""));
    let env = environment(&DibOptions { offline: true, ..DibOptions::default() }, Phase::Root);
    assert_eq!(text(&env, "DIB_OFFLINE").as_deref(), Some("1"));
}

#[test]
fn elements_in_every_form() {
    let env = environment(&DibOptions::default(), Phase::ExtraData);
    assert_eq!(text(&env, "IMAGE_ELEMENT").as_deref(), Some("base debian"));
    assert_eq!(
        text(&env, "IMAGE_ELEMENT_YAML").as_deref(),
        Some("base: /build/elements/1/base\ndebian: /build/elements/1/debian\n")
    );
    assert_eq!(text(&env, "ELEMENTS_PATH").as_deref(), Some("/build/elements/0:/build/elements/1"));
    assert_eq!(text(&env, "DIB_MOUNTPOINTS").as_deref(), Some("/boot/efi|/"));
    assert_eq!(scalar("no"), "\"no\"");
    assert_eq!(scalar("10x"), "\"10x\"");
}

#[test]
fn bash_takes_the_functions() {
    if Command::new("bash").arg("--version").output().is_err() {
        println!("skipped: bash is not installed");
        return;
    }
    let env = environment(&DibOptions::default(), Phase::ExtraData);
    let mut bash = Command::new("bash");
    bash.arg("-euc").arg(
        "eval declare -A a=($(get_image_element_array))\n\
         echo \"${a[debian]} ${#a[@]}\"\n\
         (exit 7) || die not 'so  good'",
    );
    for (name, value) in &env {
        if let Value::Text(value) = value
            && name != "PATH"
        {
            bash.env(name, value);
        }
    }
    let output = bash.output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "/build/elements/1/debian 2\nnot so  good\n"
    );
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn bash_reads_arguments_and_variables_back() {
    if Command::new("bash").arg("--version").output().is_err() {
        println!("skipped: bash is not installed");
        return;
    }
    let mut options = variables(&[("DIB_A", "it's \"$x\" `y` \\"), ("OTHER", "1")]);
    options.command_line = vec!["--root-label".into(), "la\"b$e'l".into(), "debian".into()];
    let env = environment(&options, Phase::Cleanup);
    let script = format!(
        "{}\nprintf '%s|' \"$DIB_A\" {}",
        text(&env, "DIB_ENV").unwrap(),
        text(&env, "DIB_ARGS").unwrap()
    );
    let output = Command::new("bash").arg("-c").arg(script).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "it's \"$x\" `y` \\|--root-label|la\"b$e'l|debian|"
    );
}

#[test]
fn how_an_image_is_written_is_known_where_somebody_asks() {
    let options = DibOptions {
        command_line: vec!["-t".into(), "raw".into(), "debian".into()],
        content_line: vec!["debian".into()],
        ..DibOptions::default()
    };
    let said = |env: &[(String, Value)]| {
        ["DIB_ARGS", "IMAGE_TYPE", "DIB_CHECKSUM"].map(|name| text(env, name))
    };
    let all = ["-t raw debian", "qcow2", "0"].map(|text| Some(text.to_owned()));
    assert_eq!(said(&environment(&options, Phase::Cleanup)), all);
    for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Cleanup) {
        let words = Some("debian".to_owned());
        assert_eq!(said(&environment(&options, phase)), [words.clone(), None, None]);
        let env = environment_of(&options, phase, &BTreeSet::from(["IMAGE_TYPE"]));
        assert_eq!(said(&env), [words, Some("qcow2".into()), None]);
    }
}

#[test]
fn ramdisks_get_what_the_original_forgets() {
    let mut options = DibOptions::default();
    let is_there = |options: &DibOptions, name: &str| {
        environment(options, Phase::PostInstall).iter().any(|(known, _)| known == name)
    };
    let names = ["_BASE_ELEMENT_DIR", "TMP_IMAGE_PATH", "EXTRA_DETACH"];
    assert!(names.iter().all(|name| !is_there(&options, name)));
    options.ramdisk = true;
    assert!(names.iter().all(|name| is_there(&options, name)));
}
