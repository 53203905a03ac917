//! Debug shells in a build: at a terminal, from a pipe, and commands in their place.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::harness::{Workshop, host, workshop};

/// Time limit for a machine without KVM to reach a point.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn a_build_stops_for_a_shell_and_goes_on() {
    let Some(shop) = workshop("a shell at a point") else { return };
    let arguments = [
        "--name",
        "sh",
        "--formats",
        "tar",
        "--debug-shell",
        "before-install",
        "--envvar",
        "break=after-post-install",
        "tiny-os",
        "probe",
    ];
    let mut child = shop
        .command(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first shell reads one line, the second the rest.
    let typed =
        b"echo by hand > $VBUILD_IMAGE/by-hand; test -e by-hand && echo seen-$((40 + 2)); exit\n";
    child.stdin.take().unwrap().write_all(typed).unwrap();
    let output = child.wait_with_output().unwrap();
    let built = shop.built(&output);
    assert_eq!(built.status, Some(0), "{}\n{}", built.stdout, built.stderr);
    assert!(built.stdout.contains("seen-42"), "{}", built.stdout);
    assert!(tests::archive::members(&shop.path("sh.tar")).contains_key("by-hand"));
    let built = shop.run(&["--debug-shell", "before-lunch", "tiny-os"]);
    assert!(built.stderr.contains("`before-lunch` is no point of this build"), "{}", built.stderr);
}

#[test]
fn a_command_may_take_the_place_of_the_shell() {
    let Some(shop) = workshop("break_cmd") else { return };
    let arguments = [
        "--name",
        "cmd",
        "--formats",
        "tar",
        "--envvar",
        "break=before-install,after-install,after-error",
        "--envvar",
        "break_cmd=touch at-the-break-$((6 * 7)); pwd",
    ];
    let built = shop.build(&[&arguments[..], &["tiny-os", "probe"][..]].concat());
    // Each shell's working directory, on its own line.
    let is_break = |line: &&str| line.starts_with('/') && line.ends_with("/mnt");
    let breaks = |stdout: &str| stdout.lines().filter(is_break).count();
    assert_eq!(breaks(&built.stdout), 2, "{}", built.stdout);
    assert!(tests::archive::members(&shop.path("cmd.tar")).contains_key("at-the-break-42"));
    let failing = ["--envvar", "TRAP=post-install.d", "tiny-os", "traps"];
    let built = shop.run(&[&arguments[..], &failing[..]].concat());
    assert_eq!(built.status, Some(1));
    assert_eq!(breaks(&built.stdout), 3, "{}", built.stdout);
}

/// A pseudoterminal with a simulated user.
struct Terminal {
    keys: File,
    screen: Arc<Mutex<String>>,
    /// The end for programs.
    place: OwnedFd,
}

impl Terminal {
    fn new() -> Self {
        let ends = nix::pty::openpty(None, None).unwrap();
        let (keys, place) = (File::from(ends.master), ends.slave);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, shown) = (keys.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails when the last process has closed the terminal.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { keys, screen, place }
    }

    fn size(&self, rows: &str, columns: &str) {
        let place = nix::unistd::ttyname(&self.place).unwrap();
        let arguments = ["-F", place.to_str().unwrap(), "rows", rows, "cols", columns];
        host("stty", &arguments, Path::new("/"));
    }

    /// Starts a command in a new session, with this as its controlling terminal.
    fn start(&self, command: &Command) -> Child {
        let end = || Stdio::from(self.place.try_clone().unwrap());
        Command::new("setsid")
            .args(["--wait", "--ctty"])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(command.get_current_dir().unwrap())
            .env("TERM", "dumb")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap()
    }

    /// Waits until a command succeeds, and returns everything on the screen.
    fn wait_for(self, mut child: Child) -> String {
        drop(self.place);
        let status = child.wait().unwrap();
        let screen = self.screen.lock().unwrap().clone();
        assert!(status.success(), "{screen}");
        screen
    }

    fn type_in(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until a text is on the screen.
    fn see(&self, text: &str) {
        let started = Instant::now();
        while !self.screen.lock().unwrap().contains(text) {
            let screen = self.screen.lock().unwrap().clone();
            assert!(started.elapsed() < PATIENCE, "no `{text}` on the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn the_shell_has_the_users_terminal() {
    let Some(shop) = workshop("a shell at a terminal") else { return };
    let mut terminal = Terminal::new();
    terminal.size("31", "117");
    let build = ["--name", "tty", "--formats", "tar", "--debug-shell", "before-install"];
    let build = shop.command(&[&build[..], &["tiny-os", "probe"][..]].concat());
    let child = terminal.start(&build);
    terminal.see("[vbuild at install.d]");
    terminal.type_in("stty size; tty; echo typed-$((40 + 2)) > $VBUILD_IMAGE/typed\n");
    terminal.see("31 117");
    terminal.see("/dev/pts/");
    terminal.size("43", "99");
    // The change of size is sent separately; bash receives it while it waits.
    terminal.type_in("sleep 2; stty size\n");
    terminal.see("43 99");
    // Ctrl-C ends the command in the guest, but neither the shell nor vbuild.
    terminal.type_in("echo begun-$((1 + 1)); sleep 1000\n");
    terminal.see("begun-2");
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_in("\u{3}");
    terminal.type_in("echo status-$?\n");
    terminal.see("status-130");
    terminal.type_in("exit\n");
    let screen = terminal.wait_for(child);
    assert!(screen.contains("Wrote tty.tar"), "{screen}");
    let typed = &tests::archive::members(&shop.path("tty.tar"))["typed"];
    assert_eq!(typed.content, b"typed-42\n");
}

/// The directory of a vmdb2 spec and layers of other tests.
const LAYERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/layers/project");

/// Writes an executable script.
fn script(shop: &Workshop, name: &str, text: &str) {
    let path = shop.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    shop.write(name, &format!("#!/bin/sh\n{text}\n"));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Builds with an error, inspects the machine of the failed build, fixes the error on the host, and
/// retries.
fn mend_and_retry(build: &Command, mend: impl FnOnce()) {
    let mut terminal = Terminal::new();
    let child = terminal.start(build);
    terminal.see("[vbuild failed in ");
    terminal.type_in("echo looked-$((40 + 2)); exit\n");
    terminal.see("looked-42");
    terminal.see("[r]etry the build or [s]top?");
    mend();
    terminal.type_in("r\n");
    terminal.wait_for(child);
}

#[test]
fn a_failed_build_is_mended_and_tried_again() {
    let Some(shop) = workshop("retry at a terminal") else { return };
    let shell = "--on-failure=shell";

    let name = "mended/install.d/50-mended";
    script(&shop, name, "exit 7");
    let place = shop.dir.path().to_str().unwrap();
    let build = ["--name", "again", "--formats", "tar", "-p", place, shell, "tiny-os", "mended"];
    mend_and_retry(&shop.command(&build), || script(&shop, name, "touch /etc/mended"));
    assert!(tests::archive::members(&shop.path("again.tar")).contains_key("etc/mended"));

    let right = std::fs::read_to_string(Path::new(LAYERS).join("base.vmdb")).unwrap();
    shop.write("base.vmdb", &format!("{right}  - shell: exit 7\n    root-fs: root\n"));
    let build = shop.verb("vmdb", &["base.vmdb", "--output", "base.raw", shell]);
    mend_and_retry(&build, || shop.write("base.vmdb", &right));
    assert!(shop.path("base.raw").exists());

    let name = "project/10_mended/build-layer";
    script(&shop, name, "exit 7");
    let build =
        shop.verb("layers", &["project", "--base", "base.raw", "-o", "layers.qcow2", shell]);
    mend_and_retry(&build, || script(&shop, name, "touch /etc/mended"));
    assert!(shop.path("layers.qcow2").exists());
}
