//! Signals while vbuild waits for somebody else: a mirror that stalls, another build.
//! Each of these processes has one connection to the test; its end is theirs.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A project of layers whose base is what `base` says.
fn project(home: &Path, base: &str) {
    let layer = home.join("project/10_first");
    fs::create_dir_all(&layer).unwrap();
    fs::write(layer.join("build-layer"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(layer.join("build-layer"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(home.join("project/vbuild.yaml"), base).unwrap();
    let spec = "steps:\n- mkimg: \"{{ output }}\"\n  size: 16M\n";
    fs::write(home.join("project/base.vmdb"), spec).unwrap();
}

fn start(home: &Path, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vbuild"))
        .args(words)
        .args(["--accel", "tcg", "--cache-dir"])
        .arg(home.join("cache"))
        .env_clear()
        .env("HOME", home)
        .env("TMPDIR", home.join("tmp"))
        .env("PATH", std::env::var_os("PATH").unwrap())
        // The agent is not needed before the appliance is there.
        .env("VBUILD_AGENT", "/bin/true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until somebody asks the mirror, which will never answer.
fn asked(mirror: &TcpListener, child: &mut Child) -> TcpStream {
    mirror.set_nonblocking(true).unwrap();
    loop {
        if let Ok((stream, _)) = mirror.accept() {
            stream.set_nonblocking(false).unwrap();
            return stream;
        }
        if let Some(status) = child.try_wait().unwrap() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("it ended without asking ({status}): {said}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The directories that processes keep for as long as they build, where `TMPDIR` says.
fn build_dirs(home: &Path) -> Vec<String> {
    let own = home.join("tmp").join(format!("vbuild-{}", nix::unistd::geteuid()));
    let Ok(entries) = fs::read_dir(own) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn signal(child: &Child, number: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), number).unwrap();
}

/// Whoever has asked is gone when this returns.
fn gone(mut stream: TcpStream) {
    // A reset says the same as the end.
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn a_stalled_download_of_a_base_image_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let mirror = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/base.qcow2", mirror.local_addr().unwrap());
    project(home.path(), &format!("base:\n  url: {url}\n  sha256: {}\n", "0".repeat(64)));
    let project = home.path().join("project");
    let mut child = start(home.path(), &["layers", project.to_str().unwrap()]);
    let stream = asked(&mirror, &mut child);
    signal(&child, Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped by SIGTERM"), "{said}");
    gone(stream);
}

#[test]
fn a_stalled_download_of_the_appliance_is_given_up() {
    let home = tempfile::tempdir().unwrap();
    let mirror = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/debian", mirror.local_addr().unwrap());
    let mut child = start(home.path(), &["appliance", "build", "--mirror", &url]);
    let stream = asked(&mirror, &mut child);
    assert_eq!(build_dirs(home.path()), [format!("vbuild-run-{}-0", child.id())]);
    signal(&child, Signal::SIGTERM);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(build_dirs(home.path()), [""; 0]);
    gone(stream);
}

#[test]
fn the_build_of_a_base_image_ends_with_the_build_that_needs_it() {
    for number in [Signal::SIGTERM, Signal::SIGKILL] {
        let home = tempfile::tempdir().unwrap();
        let mirror = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/debian", mirror.local_addr().unwrap());
        project(home.path(), "base:\n  recipe: vmdb\n  arguments: [base.vmdb]\n");
        let project = home.path().join("project");
        let words = ["layers", project.to_str().unwrap(), "--mirror", &url];
        let mut child = start(home.path(), &words);
        let stream = asked(&mirror, &mut child);
        signal(&child, number);
        let status = child.wait().unwrap();
        match number {
            Signal::SIGKILL => assert_eq!(status.signal(), Some(9)),
            _ => assert_eq!(status.code(), Some(1)),
        }
        gone(stream);
    }
}
