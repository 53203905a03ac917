//! Boots a kernel with the own VMM and prints its console, its end and its
//! counters: the smallest program around this crate, and what the KVM lab runs.
//!
//! ```text
//! run_kernel --kernel F --initrd F [--vcpus N] [--memory MIB] [--raw SERIAL=F]…
//!            [--qcow2 SERIAL=F]… [--read-only SERIAL=F]… [--connect PORT]…
//!            [--push SERIAL=F] [--kill-after MS] [--limit S] [--quiet] [--log-sandbox] [-- WORD…]
//! run_kernel --probe
//! ```
#![expect(clippy::print_stdout, reason = "it is a program for people")]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use machine::{
    Backend, BlockSize, ConnectDecision, Drive, DriveFormat, DriveSerial, Machine, MachineSpec,
};
use microvm::{Microvm, Sandbox};

/// The guest port of the echo server that the lab's guest runs; a connection
/// of the guest to this port of the host is echoed as well.
const ECHO_PORT: u32 = 7;
/// How long a guest may run unless `--limit` says otherwise.
const RUN_LIMIT: Duration = Duration::from_secs(300);
/// Bytes sent through an echo connection.
const ECHO_BYTES: usize = 1 << 20;

struct Arguments {
    spec: MachineSpec,
    sandbox: Sandbox,
    connect: Vec<u32>,
    push: Option<(DriveSerial, PathBuf)>,
    kill_after: Option<Duration>,
    limit: Duration,
}

fn drive(word: &str, format: DriveFormat, read_only: bool) -> Drive {
    let (serial, path) = word.split_once('=').expect("a drive is SERIAL=FILE");
    Drive {
        serial: DriveSerial::new(serial).expect("a valid serial"),
        path: path.into(),
        format,
        read_only,
        durable: false,
        block_size: BlockSize::B512,
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Arguments {
    let mut all = Arguments {
        spec: MachineSpec {
            name: "lab".to_owned(),
            vcpus: 1,
            memory_mib: 256,
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            cmdline: Vec::new(),
            drives: Vec::new(),
            on_guest_connect: Arc::new(|connect| echo(connect.port)),
            verbose_console: true,
            run_dir: std::env::temp_dir(),
        },
        sandbox: Sandbox::Enforce,
        connect: Vec::new(),
        push: None,
        kill_after: None,
        limit: RUN_LIMIT,
    };
    let spec = &mut all.spec;
    while let Some(word) = words.next() {
        if word == "--" {
            spec.cmdline = words.collect();
            break;
        }
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--kernel" => spec.kernel = value().into(),
            "--initrd" => spec.initrd = value().into(),
            "--vcpus" => spec.vcpus = value().parse().expect("a number"),
            "--memory" => spec.memory_mib = value().parse().expect("a number"),
            "--raw" => spec.drives.push(drive(&value(), DriveFormat::Raw, false)),
            "--qcow2" => spec.drives.push(drive(&value(), DriveFormat::Qcow2, false)),
            "--read-only" => spec.drives.push(drive(&value(), DriveFormat::Raw, true)),
            "--connect" => all.connect.push(value().parse().expect("a port")),
            "--push" => {
                let word = value();
                let (serial, path) = word.split_once('=').expect("a layer is SERIAL=FILE");
                all.push = Some((DriveSerial::new(serial).expect("a serial"), path.into()));
            }
            "--kill-after" => {
                all.kill_after = Some(Duration::from_millis(value().parse().expect("ms")));
            }
            "--limit" => all.limit = Duration::from_secs(value().parse().expect("seconds")),
            "--quiet" => spec.verbose_console = false,
            "--log-sandbox" => all.sandbox = Sandbox::Log,
            other => panic!("unknown argument {other}"),
        }
    }
    all
}

/// Accepts connections to the echo port.
fn echo(port: u32) -> ConnectDecision {
    if port != ECHO_PORT {
        return ConnectDecision::Refuse;
    }
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    std::thread::spawn(move || {
        let mut writer = ours.try_clone().expect("a clone");
        let mut reader = ours;
        let _ = std::io::copy(&mut reader, &mut writer);
    });
    ConnectDecision::Accept(theirs)
}

/// Sends a pattern through a stream to an echo server and checks what returns.
fn exercise(stream: UnixStream) -> std::io::Result<Duration> {
    let started = Instant::now();
    let pattern: Vec<u8> = (0..ECHO_BYTES).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect();
    let mut writer = stream.try_clone()?;
    let sent = pattern.clone();
    let sender = std::thread::spawn(move || writer.write_all(&sent));
    let mut back = vec![0; pattern.len()];
    let mut reader = stream;
    reader.read_exact(&mut back)?;
    sender.join().expect("the sender does not panic")?;
    assert!(back == pattern, "the echo differs");
    Ok(started.elapsed())
}

async fn connect_with_patience(machine: &dyn Machine, port: u32) {
    /// The guest's server starts some time after its kernel.
    const PATIENCE: Duration = Duration::from_secs(60);
    let started = Instant::now();
    loop {
        let stream = machine.connect(port).await;
        match stream.map_err(|e| e.to_string()).and_then(|s| exercise(s).map_err(|e| e.to_string()))
        {
            Ok(time) => {
                println!("[lab] echo of {ECHO_BYTES} bytes through guest port {port}: {time:?}");
                return;
            }
            Err(error) if started.elapsed() > PATIENCE => {
                println!("[lab] FAILED: guest port {port}: {error}");
                return;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn run(all: Arguments) -> ExitCode {
    let started = Instant::now();
    let backend = Microvm::new().sandbox(all.sandbox);
    let machine = match backend.start(all.spec).await {
        Ok(machine) => machine,
        Err(error) => {
            println!("[lab] FAILED to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("[lab] started after {:?}", started.elapsed());
    for port in all.connect {
        connect_with_patience(machine.as_ref(), port).await;
    }
    if let Some((serial, path)) = all.push {
        let pushed = machine.push_layer(&serial, &path).await;
        println!("[lab] push_layer: {pushed:?}");
        connect_with_patience(machine.as_ref(), ECHO_PORT + 1).await;
    }
    if let Some(after) = all.kill_after {
        tokio::time::sleep(after).await;
        machine.kill().await;
    }
    let before = machine.counters();
    let end = tokio::time::timeout(all.limit, machine.wait()).await;
    println!("{}", machine.console_tail());
    for (name, value) in machine.counters() {
        println!("[lab] {name} {value}");
    }
    for (name, value) in before.iter().filter(|(name, _)| name.starts_with("rss")) {
        println!("[lab] {name} {value}");
    }
    println!("[lab] end {end:?} after {:?}", started.elapsed());
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.peek().is_some_and(|word| word == "__vmm") {
        return microvm::vmm_child();
    }
    if words.peek().is_some_and(|word| word == "--probe") {
        println!("{:#?}", microvm::probe::probe(Path::new("/dev/kvm")));
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(arguments(words)))
}
