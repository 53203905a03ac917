//! The guest of this crate's boot tests, a static program: `/init` in the initramfs that
//! `pack_initrd` creates. It loads the modules in `/modules` in the order of their names, reports
//! to the host on port 1 that it is up, and then serves a few ports that exercise the vsock device
//! and the drives.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

/// The host's port for "I am up".
const UP_PORT: u32 = 1;
/// Echoes all bytes, then closes its direction.
const ECHO_PORT: u32 = 10;
/// Reads all bytes, then replies with their number.
const SINK_PORT: u32 = 11;
/// Reads a byte count, and sends that many bytes.
const SOURCE_PORT: u32 = 12;
/// Reads one command line and replies with one line.
const COMMAND_PORT: u32 = 13;
/// Size of the drive accesses of commands.
const BLOCK: usize = 1 << 20;

fn main() {
    if let Err(cause) = run() {
        say(&cause.to_string());
    }
    let _ = reboot(RebootMode::RB_POWER_OFF);
}

/// Writes to the console.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "testguest: {text}");
}

fn run() -> io::Result<()> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        fs::create_dir_all(at)?;
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    let mut modules: Vec<PathBuf> =
        fs::read_dir("/modules")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    modules.sort();
    for module in modules {
        let file = fs::File::open(&module)?;
        nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty())
            .map_err(|cause| io::Error::other(format!("{}: {cause}", module.display())))?;
    }
    serve(ECHO_PORT, echo)?;
    serve(SINK_PORT, sink)?;
    serve(SOURCE_PORT, source)?;
    serve(COMMAND_PORT, command)?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    say(&format!("up {}", uptime.trim()));
    let mut up = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, UP_PORT)?;
    up.write_all(format!("up {uptime}").as_bytes())?;
    // The host closes this connection when it no longer needs the guest.
    io::copy(&mut up, &mut io::sink())?;
    Ok(())
}

fn serve(port: u32, handler: fn(VsockStream) -> io::Result<()>) -> io::Result<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => {
                    thread::spawn(move || {
                        if let Err(cause) = handler(stream) {
                            say(&format!("port {port}: {cause}"));
                        }
                    });
                }
                Err(cause) => say(&format!("accept on {port}: {cause}")),
            }
        }
    });
    Ok(())
}

fn echo(mut stream: VsockStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..count])?;
    }
}

fn sink(mut stream: VsockStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0_u64;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return stream.write_all(&total.to_le_bytes());
        }
        total += count as u64;
    }
}

fn source(mut stream: VsockStream) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    let mut left = usize::try_from(u64::from_le_bytes(wanted)).map_err(io::Error::other)?;
    let chunk = vec![7; 256 * 1024];
    while left > 0 {
        let count = left.min(chunk.len());
        stream.write_all(&chunk[..count])?;
        left -= count;
    }
    Ok(())
}

fn command(stream: VsockStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let answer = match words[..] {
        ["ping"] => Ok("pong".to_owned()),
        ["poweroff"] => reboot(RebootMode::RB_POWER_OFF).map(|_| String::new()).map_err(Into::into),
        ["reboot"] => reboot(RebootMode::RB_AUTOBOOT).map(|_| String::new()).map_err(Into::into),
        ["panic"] => fs::write("/proc/sysrq-trigger", "c").map(|()| String::new()),
        ["write", serial, byte, mib] => write_drive(serial, byte, mib),
        ["read", serial, mib] => read_drive(serial, mib),
        ["cpuinfo"] => fs::read_to_string("/proc/cpuinfo").map(|text| text.replace('\n', ";")),
        ["info", serial] => drive_info(serial),
        _ => Err(io::Error::other(format!("unknown command {line:?}"))),
    };
    let answer = answer.unwrap_or_else(|cause| format!("error: {cause}"));
    (&stream).write_all(format!("{answer}\n").as_bytes())
}

fn drive(serial: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("serial")).is_ok_and(|found| found == serial) {
            let name = path.file_name().ok_or_else(|| io::Error::other("no name"))?;
            return Ok(Path::new("/dev").join(name));
        }
    }
    Err(io::Error::other(format!("no drive {serial}")))
}

fn drive_info(serial: &str) -> io::Result<String> {
    let name = drive(serial)?;
    let base = Path::new("/sys/block").join(name.file_name().unwrap_or_default());
    let read = |file: &str| fs::read_to_string(base.join(file)).map(|s| s.trim().to_owned());
    Ok(format!(
        "sectors={} block={} ro={} discard={}",
        read("size")?,
        read("queue/logical_block_size")?,
        read("ro")?,
        read("queue/discard_max_bytes")?
    ))
}

fn write_drive(serial: &str, byte: &str, mib: &str) -> io::Result<String> {
    let byte: u8 = byte.parse().map_err(io::Error::other)?;
    let mib: u64 = mib.parse().map_err(io::Error::other)?;
    let file = fs::OpenOptions::new().write(true).open(drive(serial)?)?;
    for index in 0..mib {
        file.write_all_at(&vec![byte; BLOCK], index * BLOCK as u64)?;
    }
    file.sync_all()?;
    Ok("written".to_owned())
}

fn read_drive(serial: &str, mib: &str) -> io::Result<String> {
    let mib: usize = mib.parse().map_err(io::Error::other)?;
    let mut file = fs::File::open(drive(serial)?)?;
    let mut block = vec![0; BLOCK];
    let mut sum = 0_u64;
    for _ in 0..mib {
        file.read_exact(&mut block)?;
        sum += block.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }
    Ok(format!("sum {sum}"))
}
