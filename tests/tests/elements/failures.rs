//! Builds that must fail: what they say, how they end, and what they leave.

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
        ("environment-status", "environment.d"),
        ("environment-unset", "NO_SUCH_VARIABLE_ANYWHERE"),
    ] {
        let built = trapped(&shop, trap);
        assert_eq!(built.status, Some(1));
        assert!(built.stderr.contains(words), "{}", built.stderr);
        assert_eq!(built.scripts(), Vec::<String>::new(), "no script ran after it");
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
fn outputs_can_be_kept_when_a_build_fails() {
    let Some(shop) = workshop("kept outputs") else { return };
    // The archive is complete when the disk does not fit.
    let arguments = [
        "--name",
        "kept",
        "--formats",
        "tar,qcow2",
        "--no-delete-on-failure",
        "--qemu-img-options",
        "no_such_option=1",
        "tiny-os",
    ];
    let built = shop.run(&arguments);
    assert_eq!(built.status, Some(1), "{}", built.stderr);
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
    let pid = child.id().to_string();
    super::harness::host("kill", &["-TERM", &pid], shop.dir.path());
    let status = child.wait().unwrap();
    assert!(!status.success());
    assert_eq!(shop.names(), ["events", "int.qcow2", "log"]);
    assert_eq!(fs::read_to_string(shop.path("int.qcow2")).unwrap(), "of an earlier build");
}
