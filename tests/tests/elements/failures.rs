//! Builds that must fail: their messages, exit codes, and what they leave behind.

use std::{fs, time::Duration};

use super::harness::{Workshop, workshop};

fn trapped(shop: &Workshop, phase: &str) -> super::harness::Built {
    let trap = format!("TRAP={phase}");
    shop.run(&["--name", "trap", "--formats", "raw,tar", "--envvar", &trap, "tiny-os", "traps"])
}

#[test]
fn a_failing_script_ends_the_build_and_is_named() {
    let Some(shop) = workshop("failing scripts") else { return };
    shop.write("trap.raw", "of an earlier build");
    for phase in ["root.d", "install.d", "block-device.d", "cleanup.d"] {
        let built = trapped(&shop, phase);
        assert_eq!(built.status, Some(1), "{phase}: {}", built.stderr);
        for part in [
            &format!("{phase}/80-trap"),
            "element traps",
            "exit status 23",
            "the last words of the trap",
            "to standard output before the end",
        ] {
            assert!(built.stderr.contains(part), "{part} in {}", built.stderr);
        }
        let scripts = built.scripts();
        assert_eq!(scripts.last().unwrap(), &format!("{phase}/80-trap"));
        assert_eq!(shop.names(), ["events", "log", "trap.raw"], "{phase}");
        assert_eq!(fs::read_to_string(shop.path("trap.raw")).unwrap(), "of an earlier build");
    }
}

#[test]
fn outputs_of_a_failed_build_stay_when_asked_for() {
    let Some(shop) = workshop("--no-delete-on-failure") else { return };
    shop.write("trap.raw", "of an earlier build");
    let arguments = ["--name", "trap", "--formats", "raw,qcow2,tar", "--no-delete-on-failure"];
    let elements = ["--envvar", "TRAP=cleanup.d", "tiny-os", "traps"];
    let built = shop.run(&[&arguments[..], &elements[..]].concat());
    assert_eq!(built.status, Some(1), "{}", built.stderr);
    let names = shop.names();
    assert!(!names.iter().any(|name| name == "trap.tar"), "it had not come so far: {names:?}");
    // The disk is as the failure left it, and the older one is kept.
    let raw = shop.path("trap.raw");
    assert_eq!(super::image::blkid(&raw, "LABEL"), "cloudimg-rootfs");
    assert!(super::image::ext_names(&raw, "/").iter().any(|name| name == "usr"));
    assert!(names.iter().any(|name| name == "trap.qcow2"), "{names:?}");
    let older = names.iter().find(|name| name.starts_with("trap-") && name.ends_with(".raw"));
    let older = shop.path(older.unwrap_or_else(|| panic!("{names:?}")));
    assert_eq!(fs::read_to_string(older).unwrap(), "of an earlier build");
}

#[test]
fn extra_data_ends_with_its_scripts_status() {
    let Some(shop) = workshop("extra-data status") else { return };
    let built = trapped(&shop, "extra-data.d");
    assert_eq!(built.status, Some(23));
    assert!(built.stderr.contains("extra-data.d/80-trap"), "{}", built.stderr);
}

#[test]
fn environment_files_that_fail_end_the_phase() {
    let Some(shop) = workshop("environment files") else { return };
    for (trap, words) in [
        ("environment-status", "exit status 1"),
        ("environment-unset", "NO_SUCH_VARIABLE_ANYWHERE"),
    ] {
        let built = trapped(&shop, trap);
        assert_eq!(built.status, Some(1));
        for part in [words, "root.d/environment.d/90-trap", "element: traps"] {
            assert!(built.stderr.contains(part), "{part} in {}", built.stderr);
        }
        assert_eq!(built.scripts(), ["root.d/environment.d/90-trap"], "no script ran after it");
    }
}

#[test]
fn an_operating_system_that_makes_nothing_is_refused() {
    let Some(shop) = workshop("nothing made") else { return };
    let built = shop.run(&["empty-os"]);
    assert_eq!(built.status, Some(1));
    assert!(built.stderr.contains("Failed to deploy the root element."), "{}", built.stderr);
}

#[test]
fn an_interpreter_that_is_missing_is_named() {
    let Some(shop) = workshop("missing interpreter") else { return };
    let built = shop.run(&["--python", "no-such-python", "tiny-os"]);
    assert_eq!(built.status, Some(1));
    assert!(built.stderr.contains("no-such-python needed but not found"), "{}", built.stderr);
    assert_eq!(built.scripts(), Vec::<String>::new());
}

#[test]
fn a_program_that_is_missing_is_named_as_by_bash() {
    let Some(shop) = workshop("missing program") else { return };
    let trap = ["--envvar", "TRAP=install-packages", "--extra-packages", "p", "tiny-os", "traps"];
    let built = shop.run(&trap);
    assert_eq!(built.status, Some(1));
    for part in ["install-packages: command not found", "exit status 127"] {
        assert!(built.stderr.contains(part), "{part} in {}", built.stderr);
    }
}

#[test]
fn odd_letters_in_values_reach_scripts_as_they_are() {
    let Some(shop) = workshop("odd letters") else { return };
    let (name, label) = ("my $(image) \"1\"", "la\"b$e 'l");
    let arguments = ["--name", name, "--root-label", label, "--formats", "raw", "tiny-os", "probe"];
    let built = shop.build(&arguments);
    for phase in super::phases::PHASES {
        let env = built.records(name).env(phase);
        assert_eq!(env["IMAGE_NAME"], name, "{phase}");
        assert_eq!(env["DIB_ROOT_LABEL"], label);
        assert!(env["DIB_ARGS"].contains("'la\"b$e '\\''l'"), "{}", env["DIB_ARGS"]);
    }
    let image = shop.path(&format!("{name}.raw"));
    assert_eq!(super::image::blkid(&image, "LABEL"), label);
}

#[test]
fn the_resolver_of_the_image_is_its_own() {
    let Some(shop) = workshop("resolv.conf") else { return };
    let member = |environment: &[&str]| {
        let mut arguments = vec!["--name", "r", "--formats", "tar", "--network"];
        for variable in environment {
            arguments.extend(["--envvar", *variable]);
        }
        arguments.extend(["tiny-os", "probe"]);
        let built = shop.build(&arguments);
        let during = built.records("r").fact("install.d", "resolv");
        assert!(during.starts_with("nameserver "), "it works during the build: {during}");
        let tree = tests::archive::members(&shop.path("r.tar"));
        assert!(!tree.contains_key("etc/resolv.conf.ORIG"));
        tree.get("etc/resolv.conf").cloned()
    };
    let replaced = member(&["PROBE_RESOLV_ORIG=nameserver 192.0.2.1"]).unwrap();
    assert_eq!(replaced.content, b"nameserver 192.0.2.1\n");
    let link = member(&["PROBE_RESOLV=link"]).unwrap();
    assert_eq!(link.link.as_deref(), Some("../run/resolver/resolv.conf"));
    assert_eq!(member(&["PROBE_RESOLV=absent"]), None);
    assert_eq!(member(&["PROBE_RESOLV=copied"]), None, "the appliance's is not the image's");
}

/// Loop devices in use, and the mounts of this process.
fn state_of_the_host() -> (Vec<String>, String) {
    let mut loops: Vec<String> = tests::names(std::path::Path::new("/sys/block"))
        .into_iter()
        .filter(|name| std::path::Path::new(&format!("/sys/block/{name}/loop")).exists())
        .collect();
    loops.sort();
    (loops, fs::read_to_string("/proc/self/mounts").unwrap())
}

#[test]
fn the_host_is_as_it_was() {
    let Some(shop) = workshop("the host") else { return };
    let before = state_of_the_host();
    shop.build(&["--name", "host", "--formats", "raw", "tiny-os", "block-device-mbr"]);
    assert_eq!(state_of_the_host(), before, "after success");
    let mut child = shop
        .command(&["--name", "killed", "tiny-os"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(5));
    child.kill().unwrap();
    child.wait().unwrap();
    // The machine ends when its owner process ends.
    let gone = || !tests::process_with("guest=killed");
    let started = std::time::Instant::now();
    while !gone() && started.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(gone(), "no machine outlives its vbuild");
    assert_eq!(state_of_the_host(), before, "after a kill");
    assert_eq!(shop.names(), ["events", "host.raw", "log"]);
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let Some(shop) = workshop("interrupt") else { return };
    shop.write("int.qcow2", "of an earlier build");
    let mut child = shop
        .command(&["--name", "int", "--envvar", "PROBE_RESOLV=link", "tiny-os"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let started = std::time::Instant::now();
    let running = || {
        fs::read_to_string(shop.path("events"))
            .is_ok_and(|text| text.contains("Running: root.d/10-tiny-os"))
    };
    while !running() && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let pid = child.id();
    assert_ne!(shop.build_dirs(pid), Vec::<String>::new(), "it is building");
    super::harness::host("kill", &["-TERM", &pid.to_string()], shop.dir.path());
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert_eq!(shop.build_dirs(pid), Vec::<String>::new());
    assert_eq!(shop.names(), ["events", "int.qcow2", "log"]);
    assert_eq!(fs::read_to_string(shop.path("int.qcow2")).unwrap(), "of an earlier build");
}
