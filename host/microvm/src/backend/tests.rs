//! Tests of the parent with processes that are not a VMM.

use std::os::unix::process::ExitStatusExt as _;

use machine::{ConnectDecision, MachineSpec};

use super::*;

fn spec(dir: &Path) -> MachineSpec {
    let file = |name: &str| {
        let path = dir.join(name);
        std::fs::write(&path, b"no kernel").unwrap();
        path
    };
    MachineSpec {
        architecture: machine::MachineArchitecture::Amd64,
        name: "test".to_owned(),
        vcpus: 1,
        memory_mib: 256,
        kernel: file("kernel"),
        initrd: file("initrd"),
        cmdline: vec!["word".to_owned()],
        drives: Vec::new(),
        on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
        verbose_console: false,
        start: machine::Start::Boot,
        run_dir: dir.to_owned(),
    }
}

async fn start(backend: Microvm) -> Result<Box<dyn Machine>, MachineError> {
    let dir = tempfile::tempdir().unwrap();
    backend.start(spec(dir.path())).await
}

fn kvm_is_there() -> bool {
    let there = File::options().read(true).write(true).open(KVM_DEVICE).is_ok();
    if !there {
        println!("skipped: {KVM_DEVICE} cannot be opened here");
    }
    there
}

#[tokio::test]
async fn a_program_that_is_no_vmm_is_an_error_with_its_last_words() {
    if !kvm_is_there() {
        return;
    }
    let words = ["-c", "echo some last words >&2; exit 3"];
    let error = start(Microvm::with_program("/bin/sh", words)).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("exit status: 3") && text.contains("some last words"), "{text}");
    let error = start(Microvm::with_program("/nonexistent", words)).await.unwrap_err();
    assert!(error.to_string().contains("`/nonexistent`"), "{error}");
}

#[tokio::test]
async fn a_missing_kernel_is_named() {
    if !kvm_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path());
    spec.kernel = dir.path().join("missing");
    let error = Microvm::new().start(spec).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn the_command_line_keeps_the_console_quiet_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut spec = spec(dir.path());
    let quiet = cmdline(&spec);
    assert!(quiet.contains(machine::QUICK_BOOT_WORDS[0]));
    assert!(quiet.contains("panic=-1") && quiet.contains(" quiet ") && quiet.ends_with(" word"));
    spec.verbose_console = true;
    assert!(!cmdline(&spec).contains("quiet"));
}

#[test]
fn a_tail_keeps_the_end() {
    let mut tail = Tail::new(8);
    tail.push(b"0123");
    tail.push(b"456789");
    assert_eq!(tail.text(), "23456789");
    tail.push(&[b'x'; 100]);
    assert_eq!(tail.text(), "xxxxxxxx");
}

#[test]
fn deaths_are_told_apart() {
    let killed = ExitStatus::from_raw(libc::SIGSYS);
    assert!(describe(WHO, killed, "").contains("sandbox"));
    assert!(describe(WHO, ExitStatus::from_raw(libc::SIGSEGV), "oh").ends_with("signal 11: oh"));
}
