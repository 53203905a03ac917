//! Shells into a build: at a terminal, from a pipe, and commands in their place.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::harness::{host, workshop};

/// How long a machine without KVM may take to come to a point.
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
    // The first shell takes one line, the second the rest.
    let typed =
        b"echo by hand > $VBUILD_IMAGE/by-hand; test -e by-hand && echo seen-$((40 + 2)); exit\n";
    child.stdin.take().unwrap().write_all(typed).unwrap();
    let output = child.wait_with_output().unwrap();
    let built = shop.built(&output);
    assert_eq!(built.status, Some(0), "{}\n{}", built.stdout, built.stderr);
    assert!(built.stdout.contains("seen-42"), "{}", built.stdout);
    assert!(tests::archive::members(&shop.path("sh.tar")).contains_key("by-hand"));
    let built = shop.run(&["--debug-shell", "before-lunch", "tiny-os"]);
    assert!(built.stderr.contains("`before-lunch` is neither"), "{}", built.stderr);
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
        "break=before-install,after-error",
        "--envvar",
        "break_cmd=touch at-the-break-$((6 * 7)); pwd",
    ];
    let built = shop.build(&[&arguments[..], &["tiny-os", "probe"][..]].concat());
    assert!(built.stdout.contains("/mnt\n"), "{}", built.stdout);
    assert!(tests::archive::members(&shop.path("cmd.tar")).contains_key("at-the-break-42"));
    let failing = ["--envvar", "TRAP=post-install.d", "tiny-os", "traps"];
    let built = shop.run(&[&arguments[..], &failing[..]].concat());
    assert_eq!(built.status, Some(1));
    assert_eq!(built.stdout.matches("/mnt\n").count(), 2, "{}", built.stdout);
}

/// A terminal with somebody before it.
struct Terminal {
    keys: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    fn new(controller: OwnedFd) -> Self {
        let keys = File::from(controller);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, shown) = (keys.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // It ends with an error when the last process has left the terminal.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                shown.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { keys, screen }
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
    let ends = nix::pty::openpty(None, None).unwrap();
    let place = nix::unistd::ttyname(&ends.slave).unwrap();
    let stty = |arguments: &[&str]| {
        let arguments = [&["-F", place.to_str().unwrap()][..], arguments].concat();
        host("stty", &arguments, shop.dir.path())
    };
    stty(&["rows", "31", "cols", "117"]);
    let build = ["--name", "tty", "--formats", "tar", "--debug-shell", "before-install"];
    let build = shop.command(&[&build[..], &["tiny-os", "probe"][..]].concat());
    // A session of its own, whose controlling terminal this is.
    let end = || Stdio::from(ends.slave.try_clone().unwrap());
    let mut child = Command::new("setsid")
        .args(["--wait", "--ctty"])
        .arg(build.get_program())
        .args(build.get_args())
        .current_dir(shop.dir.path())
        .env("TERM", "dumb")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    let mut terminal = Terminal::new(ends.master);
    terminal.see("[vbuild at install.d]");
    terminal.type_in("stty size; tty; echo typed-$((40 + 2)) > $VBUILD_IMAGE/typed\n");
    terminal.see("31 117");
    terminal.see("/dev/pts/");
    stty(&["rows", "43", "cols", "99"]);
    // The news of the size goes its own way; bash learns it while it waits.
    terminal.type_in("sleep 2; stty size\n");
    terminal.see("43 99");
    // Ctrl-C ends what runs in the guest, and neither the shell nor vbuild.
    terminal.type_in("echo begun-$((1 + 1)); sleep 1000\n");
    terminal.see("begun-2");
    std::thread::sleep(Duration::from_secs(1));
    terminal.type_in("\u{3}");
    terminal.type_in("echo status-$?\n");
    terminal.see("status-130");
    terminal.type_in("exit\n");
    drop(ends.slave);
    let status = child.wait().unwrap();
    let screen = terminal.screen.lock().unwrap().clone();
    assert!(status.success(), "{screen}");
    assert!(screen.contains("Wrote tty.tar"), "{screen}");
    let typed = &tests::archive::members(&shop.path("tty.tar"))["typed"];
    assert_eq!(typed.content, b"typed-42\n");
}
