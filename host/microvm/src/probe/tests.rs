//! Tests the probe with files that are not KVM devices, and with this host's own device.

use std::os::unix::fs::PermissionsExt;

use machine::accel::Verdict;

use super::*;

fn failure_of(report: &ProbeReport) -> (String, String, Option<String>) {
    match report.verdict() {
        Verdict::Usable => panic!("usable: {report:?}"),
        Verdict::Unusable { check, reason, hint } => (check, reason, hint),
    }
}

#[test]
fn a_missing_device_is_named_and_the_rest_skipped() {
    let report = probe(Path::new("/nonexistent/kvm"));
    let (name, reason, hint) = failure_of(&report);
    assert_eq!(name, OPEN);
    assert!(reason.contains("`/nonexistent/kvm`"), "{reason}");
    assert!(hint.expect("has a hint").contains("kvm-intel"));
    assert_eq!(report.checks.len(), 5);
    assert!(report.checks[1..].iter().all(|c| c.outcome == Outcome::Skipped));
}

#[test]
fn a_device_that_is_not_kvm_fails_the_version() {
    let report = probe(Path::new("/dev/null"));
    let (name, reason, _) = failure_of(&report);
    assert_eq!(name, VERSION);
    assert!(reason.contains("version -1"), "{reason}");
}

#[test]
fn who_may_open_the_device_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kvm");
    let with = |mode: u32| {
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        who_may(&path, &fs::metadata(&path).unwrap())
    };
    assert!(with(0o600).contains("only root may open it"));
    let gid = fs::metadata(&path).unwrap().gid();
    if gid == 0 {
        std::os::unix::fs::chown(&path, None, Some(1)).unwrap();
    }
    let gid = fs::metadata(&path).unwrap().gid();
    let hint = with(0o660);
    assert!(hint.contains(&format!("(gid {gid})")) && hint.contains("usermod -aG"), "{hint}");
    assert!(hint.contains("seems wrong") && hint.contains("chgrp kvm"), "{hint}");
}

#[test]
fn what_an_old_kvm_lacks_is_named() {
    assert!(all_of(|_| true).is_ok());
    let Err(failure) = all_of(|cap| !matches!(cap, Cap::ImmediateExit)) else {
        panic!("it is missed")
    };
    assert_eq!(failure.reason, "this KVM does not have `KVM_CAP_IMMEDIATE_EXIT`");
    assert!(failure.hint.is_some());
}

#[test]
fn groups_are_found_by_number() {
    assert_eq!(group_name(0).as_deref(), Some("root"));
    assert_eq!(group_name(u32::MAX), None);
}

#[test]
fn a_gate_splits_its_handler() {
    let (low, high) = gate(0x1122_3344_5566_7788);
    assert_eq!(low, 0x5566_8e00_0010_7788);
    assert_eq!(high, 0x1122_3344);
}

/// Probes this host's own device. Every verdict is valid; a failure must contain the instruction
/// pointer and the code, which users report.
#[test]
fn the_device_of_this_machine_gets_a_verdict() {
    let device = Path::new("/dev/kvm");
    if fs::OpenOptions::new().read(true).write(true).open(device).is_err() {
        println!("skipped: /dev/kvm cannot be opened here");
        return;
    }
    let report = probe(device);
    println!("{report:#?}");
    if let Verdict::Unusable { check, reason, .. } = report.verdict()
        && check == RUN
    {
        assert!(reason.contains("rip") || reason.contains("did not finish"), "{reason}");
    }
}
