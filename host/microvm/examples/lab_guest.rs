//! The init of both levels of the KVM lab (see `tests/lab.rs`).
//!
//! Level 1 runs under QEMU's emulation with nested SVM: it loads KVM and runs
//! the jobs it was given, each a call of `run_kernel`. Level 2 is the guest of
//! our VMM: it loads the virtio drivers, exercises every device, and ends in the
//! way its command line asks for. Both print what they find on their console.
#![expect(clippy::print_stdout, reason = "its console is its report")]
#![expect(unsafe_code, reason = "module loading, discards and power-off have no safe interface")]
// UNSAFETY: an init without a C library of its own calls three system calls
// that the standard library does not know; each takes integers or live buffers.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::AsRawFd, fd::OwnedFd, unix::fs::FileExt},
    path::PathBuf,
    process::Command,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept, bind, connect, listen,
            socket,
        },
    },
};

/// The echo port in both directions.
const ECHO_PORT: u32 = 7;
/// The port on which the host shows that it has pushed a layer.
const PUSHED_PORT: u32 = 8;
/// A port that the host refuses.
const REFUSED_PORT: u32 = 9;
/// Bytes of the disk pattern.
const PATTERN_BYTES: usize = 4 << 20;
/// Where the second pattern goes.
const SECOND_PATTERN: u64 = 8 << 20;
/// Rounds of the echo to the host.
const ECHO_ROUNDS: usize = 32;
/// How long to wait for the host's part of a job.
const HOST_LIMIT: Duration = Duration::from_secs(240);

fn word(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| Some(word.strip_prefix(name)?.to_owned()))
}

fn load_modules() {
    let order = fs::read_to_string("/modules/order").unwrap_or_default();
    for name in order.lines() {
        let loaded = File::open(format!("/modules/{name}.ko")).and_then(|file| {
            // SAFETY: a live descriptor, an empty string, no flags.
            let code =
                unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
            if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
        if let Err(error) = loaded {
            println!("[guest] FAILED to load {name}: {error}");
        }
    }
}

fn mount_all() {
    for (kind, target) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")]
    {
        let _ = fs::create_dir_all(target);
        if let Err(error) = mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>) {
            println!("[guest] FAILED to mount {target}: {error}");
        }
    }
}

fn check(name: &str, result: Result<(), String>) {
    match result {
        Ok(()) => println!("[guest] ok {name}"),
        Err(error) => println!("[guest] FAILED {name}: {error}"),
    }
}

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

// ---- level 1 ----------------------------------------------------------------

fn level_one() {
    for job in fs::read_to_string("/jobs").unwrap_or_default().lines() {
        let mut words = job.split_whitespace();
        let name = words.next().unwrap_or_default();
        println!("[l1] job {name}");
        for disk in ["target", "second", "tools"] {
            let file = File::create(format!("/tmp/{disk}.raw"));
            if let Err(error) = file.and_then(|file| file.set_len(32 << 20)) {
                println!("[l1] FAILED to make a disk: {error}");
            }
        }
        let output = Command::new("/run_kernel").args(words).output();
        match output {
            Ok(output) => {
                println!("{}", String::from_utf8_lossy(&output.stdout));
                print!("{}", String::from_utf8_lossy(&output.stderr));
            }
            Err(error) => println!("[l1] FAILED to run: {error}"),
        }
        println!("[l1] end of job {name}");
    }
}

// ---- level 2 ----------------------------------------------------------------

fn vsock() -> Result<OwnedFd, String> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(text)
}

fn serve(port: u32, done: Sender<u32>) -> Result<(), String> {
    let socket = vsock()?;
    bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port)).map_err(text)?;
    listen(&socket, Backlog::new(64).map_err(text)?).map_err(text)?;
    thread::spawn(move || {
        while let Ok(fd) = accept(socket.as_raw_fd()) {
            // SAFETY: accept has just made this descriptor.
            let mut stream =
                File::from(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
            let done = done.clone();
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(len) = stream.read(&mut buffer) {
                    if len == 0 || stream.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
                let _ = done.send(port);
            });
        }
    });
    Ok(())
}

fn to_host(port: u32) -> Result<File, String> {
    let socket = vsock()?;
    connect(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, port)).map_err(text)?;
    Ok(File::from(socket))
}

fn echo_through_host() -> Result<(), String> {
    let mut stream = to_host(ECHO_PORT)?;
    let sent: Vec<u8> = (0..32 << 10).map(|i: u32| u8::try_from(i % 253).unwrap_or(0)).collect();
    let mut back = vec![0; sent.len()];
    for _ in 0..ECHO_ROUNDS {
        stream.write_all(&sent).map_err(text)?;
        stream.read_exact(&mut back).map_err(text)?;
        if back != sent {
            return Err("the echo differs".to_owned());
        }
    }
    Ok(())
}

fn disk(serial: &str) -> Result<PathBuf, String> {
    for entry in fs::read_dir("/sys/block").map_err(text)? {
        let entry = entry.map_err(text)?;
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim() == serial {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(format!("there is no disk `{serial}`"))
}

fn pattern(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u8::try_from(state >> 24).unwrap_or(0)
    };
    (0..PATTERN_BYTES).map(next).collect()
}

fn write_pattern(serial: &str, offset: u64, seed: u32) -> Result<(), String> {
    let file = File::options().write(true).open(disk(serial)?).map_err(text)?;
    file.write_all_at(&pattern(seed), offset).map_err(text)?;
    file.sync_all().map_err(text)
}

fn read_pattern(serial: &str, offset: u64, seed: u32) -> Result<(), String> {
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(text)?;
    let file = File::open(disk(serial)?).map_err(text)?;
    let mut bytes = vec![0; PATTERN_BYTES];
    file.read_exact_at(&mut bytes, offset).map_err(text)?;
    if bytes == pattern(seed) { Ok(()) } else { Err("it reads differently".to_owned()) }
}

fn discard(serial: &str, offset: u64) -> Result<(), String> {
    const BLKDISCARD: libc::c_ulong = 0x1277;
    let file = File::options().write(true).open(disk(serial)?).map_err(text)?;
    let range = [offset, PATTERN_BYTES as u64];
    // SAFETY: the ioctl reads two 64-bit numbers from a live array.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    if code == 0 { Ok(()) } else { Err(text(io::Error::last_os_error())) }
}

fn refused<T>(result: Result<T, String>) -> Result<(), String> {
    match result {
        Ok(_) => Err("it was allowed".to_owned()),
        Err(_) => Ok(()),
    }
}

fn random() -> Result<(), String> {
    let mut bytes = [0; 16];
    let mut device = File::open("/dev/hwrng").map_err(text)?;
    device.read_exact(&mut bytes).map_err(text)?;
    if bytes == [0; 16] { Err("all zeros".to_owned()) } else { Ok(()) }
}

fn processors() {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    println!("[guest] processors {}", info.lines().filter(|l| l.starts_with("processor")).count());
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    println!("[guest] up {}", uptime.split(' ').next().unwrap_or_default());
}

fn wait_for(done: &Receiver<u32>, port: u32) -> Result<(), String> {
    let started = Instant::now();
    while started.elapsed() < HOST_LIMIT {
        if done.recv_timeout(HOST_LIMIT).map_err(text)? == port {
            return Ok(());
        }
    }
    Err("the host did not come".to_owned())
}

fn level_two(mode: &str) {
    processors();
    let (done, finished) = mpsc::channel();
    if matches!(mode, "reboot" | "panic" | "loop") {
        return;
    }
    check("listen", serve(ECHO_PORT, done.clone()).and_then(|()| serve(PUSHED_PORT, done)));
    check("random", random());
    check("write", write_pattern("target", 0, 1));
    check("read", read_pattern("target", 0, 1));
    if mode == "push" {
        check("layer", wait_for(&finished, PUSHED_PORT));
        check("old-layer", read_pattern("target", 0, 1));
        check("write-layer", write_pattern("target", SECOND_PATTERN, 2));
        check("read-layer", read_pattern("target", SECOND_PATTERN, 2));
        return;
    }
    check("echo", echo_through_host());
    check("refused-port", refused(to_host(REFUSED_PORT)));
    check("read-only", refused(write_pattern("tools", 0, 1)));
    check("second-write", write_pattern("second", SECOND_PATTERN, 3));
    check("discard", discard("second", SECOND_PATTERN));
    check("second-read", refused(read_pattern("second", SECOND_PATTERN, 3)));
    check("host", wait_for(&finished, ECHO_PORT));
}

fn main() {
    mount_all();
    load_modules();
    let mode = word("lab=").unwrap_or_default();
    if mode == "l1" {
        level_one();
    } else {
        level_two(&mode);
    }
    nix::unistd::sync();
    match mode.as_str() {
        "reboot" => drop(reboot(RebootMode::RB_AUTOBOOT)),
        "panic" => drop(fs::write("/proc/sysrq-trigger", "c")),
        "loop" => loop {
            std::hint::spin_loop();
        },
        _ => drop(reboot(RebootMode::RB_POWER_OFF)),
    }
    // Init must not return.
    thread::sleep(Duration::from_secs(60));
}
