//! From inside each process that handles what a guest writes: what works in an ordinary
//! process of the same user, and must fail there.
//!
//! The processes are started and confined by the code that machines use; only what
//! they do afterwards is the test's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use confine::{
    Landlock,
    trial::{Attempt, Outcome, TRIAL_VERB},
};

const VBUILD: &str = env!("CARGO_BIN_EXE_vbuild");
const KEPT: &str = "kept";

/// What the attempts reach for: everything in a temporary folder, and a process that is
/// nobody's parent, as a trace of the test itself would stop it.
struct Bait {
    folder: tempfile::TempDir,
    victim: Child,
    _tcp: TcpListener,
    _udp: UdpSocket,
    _unix: UnixListener,
    _abstract: UnixListener,
    _inherited: OwnedFd,
    attempts: Vec<(&'static str, Attempt)>,
}

impl Drop for Bait {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

fn bait() -> Bait {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, KEPT).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = folder.path().join("socket");
    let unix = UnixListener::bind(&socket).unwrap();
    let name = format!("vbuild-test-{}", folder.path().display());
    let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
    let mut victim = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    victim.stdout.take();
    let pid = i32::try_from(victim.id()).unwrap();
    let parent = i32::try_from(std::process::id()).unwrap();
    let inherited = leaking();
    let attempts = vec![
        ("read a file", Attempt::Read(file.clone())),
        ("make a file", Attempt::Write(folder.path().join("made"))),
        ("list a folder", Attempt::List(folder.path().to_owned())),
        ("truncate a file", Attempt::Truncate(file.clone())),
        ("change the mode of a file", Attempt::ChangeMode(file)),
        ("connect to a port", Attempt::Tcp(tcp.local_addr().unwrap())),
        ("send a datagram", Attempt::Udp(udp.local_addr().unwrap())),
        ("connect to a socket", Attempt::UnixPath(socket)),
        ("connect to an abstract socket", Attempt::UnixAbstract(name)),
        ("trace a process", Attempt::Trace(pid)),
        ("signal a process", Attempt::Signal(pid)),
        ("signal the parent", Attempt::Signal(parent)),
        ("limit a process", Attempt::Limit(pid)),
        ("limit the parent", Attempt::Limit(parent)),
        ("read an environment", Attempt::Environment(pid)),
        ("use a descriptor that it was not given", Attempt::Close(inherited.as_raw_fd())),
        ("make a namespace", Attempt::Namespace),
        ("start a program", Attempt::Run(program())),
    ];
    Bait {
        _inherited: inherited,
        _abstract: UnixListener::bind_addr(&abstract_name).unwrap(),
        folder,
        victim,
        _tcp: tcp,
        _udp: udp,
        _unix: unix,
        attempts,
    }
}

/// A descriptor as vbuild's own parent may leave it: without the flag that closes it in
/// children, and with a number that none of theirs has.
fn leaking() -> OwnedFd {
    const FREE_FROM: i32 = 200;
    let null = fs::File::open("/dev/null").unwrap();
    let leaking = rustix::io::fcntl_dupfd_cloexec(null, FREE_FROM).unwrap();
    rustix::io::fcntl_setfd(&leaking, rustix::io::FdFlags::empty()).unwrap();
    leaking
}

fn program() -> PathBuf {
    ["/bin/true", "/usr/bin/true"].map(PathBuf::from).into_iter().find(|it| it.exists()).unwrap()
}

impl Bait {
    /// The attempts that work in a process that is not confined; the others say nothing
    /// about confinement, and why they fail is printed.
    fn that_work(&self) -> Vec<(&'static str, Attempt)> {
        let file = self.folder.path().join("file");
        let working: Vec<_> = self
            .attempts
            .iter()
            .filter(|(name, attempt)| {
                let text = serde_json::to_string(attempt).unwrap();
                let output = Command::new(VBUILD).arg(TRIAL_VERB).arg(text).output().unwrap();
                fs::write(&file, KEPT).unwrap();
                let _ = fs::remove_file(self.folder.path().join("made"));
                match serde_json::from_slice(&output.stdout).unwrap() {
                    Outcome::Worked => true,
                    other => {
                        println!("skipped: `{name}` fails here in any process: {other:?}");
                        false
                    }
                }
            })
            .cloned()
            .collect();
        // These depend on nothing but an ordinary kernel.
        for always in ["read a file", "connect to a port", "signal the parent", "start a program"] {
            assert!(working.iter().any(|(name, _)| *name == always), "{always}");
        }
        working
    }

    fn check(&self, who: &str, name: &str, outcome: &Outcome) {
        assert_ne!(*outcome, Outcome::Worked, "{who} can {name}");
        assert_eq!(fs::read_to_string(self.folder.path().join("file")).unwrap(), KEPT);
        assert!(!self.folder.path().join("made").exists(), "{who} could {name}");
    }
}

#[test]
fn no_thread_of_the_vmm_and_its_devices_reaches_anything() {
    let bait = bait();
    let working = bait.that_work();
    for thread in microvm::ConfinedThread::all() {
        for (name, attempt) in &working {
            let outcome = microvm::try_out(Path::new(VBUILD), thread, attempt.clone()).unwrap();
            bait.check(&format!("{thread:?}"), name, &outcome);
        }
    }
}

#[tokio::test]
async fn a_program_in_qemus_place_reaches_nothing() {
    let bait = bait();
    let held = microvm::confinement(Path::new(VBUILD)).unwrap();
    let landlock = held.iter().all(|held| matches!(held.landlock, Landlock::Held { .. }));
    for (name, attempt) in &bait.that_work() {
        // What only landlock keeps from QEMU, because it has to open its own files.
        let by_path = matches!(
            attempt,
            Attempt::Read(_)
                | Attempt::Write(_)
                | Attempt::List(_)
                | Attempt::Environment(_)
                | Attempt::Run(_)
        );
        if by_path && !landlock {
            println!("skipped: `{name}`: this kernel has no landlock");
            continue;
        }
        let outcome = qemu::try_out(Path::new(VBUILD), attempt).await.unwrap();
        bait.check("QEMU", name, &outcome);
    }
}

/// Set for the process that runs vbuild in itself.
const AS_VBUILD: &str = "VBUILD_TEST_AS_VBUILD";

/// Runs once more in a process of its own, because there is no way back.
#[test]
fn vbuild_leaves_no_image_of_its_memory() {
    const NAME: &str = "vbuild_leaves_no_image_of_its_memory";
    if std::env::var_os(AS_VBUILD).is_none() {
        let again = std::env::current_exe().unwrap();
        let status = Command::new(again)
            .args([NAME, "--exact", "--test-threads=1"])
            .env(AS_VBUILD, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let _ = vbuild::run(vec!["vbuild".into(), "--version".into()]);
    assert!(!nix::sys::prctl::get_dumpable().unwrap());
    let core = rustix::process::getrlimit(rustix::process::Resource::Core);
    assert_eq!(core.current, Some(0));
}

/// `vbuild doctor` starts the processes and tells what they told.
#[test]
fn what_confines_is_told() {
    let held = microvm::confinement(Path::new(VBUILD)).unwrap();
    let output = Command::new(VBUILD).arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(held.len(), 3, "the VMM, the vsock device, the network card");
    for held in &held {
        assert!(text.contains(&format!(" {held}\n")), "{held}\n{text}");
    }
    if qemu::find(machine::MachineArchitecture::of_host(), None).is_ok() {
        assert!(text.contains("  QEMU: "), "{text}");
    }
    // Builds may be impossible here for another reason, which is then the status.
    let demanding =
        Command::new(VBUILD).args(["doctor", "--require-confinement"]).output().unwrap();
    let all = held.iter().all(|held| held.lacks().is_empty());
    let expected =
        if all { output.status.code() } else { demanding.status.code().filter(|it| *it > 0) };
    assert_eq!(demanding.status.code(), expected, "{text}");
}
