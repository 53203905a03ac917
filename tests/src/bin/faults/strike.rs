//! Injects a fault into a running build.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal as Number, kill},
    unistd::Pid,
};
use rand::{Rng as _, rngs::StdRng, seq::SliceRandom as _};

use crate::{
    draw::{Calls, Count, Damage, Draw, Drive, Fault, Place, Signal, Stored, Victim},
    ground::{make_full, make_room},
    mirror::Behaviour,
    processes::{Process, below},
    recipe::Site,
    references::References,
    run::{Pace, Run},
};

/// Time limit for the tracer to attach.
const ATTACH_LIMIT: Duration = Duration::from_secs(30);
/// How long a download stalls before the harness stops the build by SIGTERM, as a user would.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The result of an injection.
#[derive(Debug)]
pub(crate) enum Struck {
    /// The fault was injected; with a description of place and moment, and the tracer if one was
    /// started.
    Done { at: String, tracer: Option<Tracer> },
    /// The build had already ended.
    TooLate,
    /// The fault cannot be injected on this host, with the reason.
    Impossible(String),
}

/// strace, which makes system calls of another process fail. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        // On SIGTERM, it detaches from the process.
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Number::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Struck {
    fn done(at: String) -> Self {
        Self::Done { at, tracer: None }
    }
}

/// Returns the folder that a fault fills.
pub(crate) fn full_folder(place: Place, site: &Site) -> PathBuf {
    match place {
        Place::Output => site.output(),
        Place::Cache => site.cache(),
        Place::Drive => site.drives(),
        Place::Temporary => site.temporary(),
    }
}

/// Prepares the fault before the build starts: sets the mirror's behaviour.
pub(crate) fn prepare(draw: &Draw, references: &References) {
    match draw.fault {
        Fault::Mirror(behaviour) | Fault::BaseMirror(behaviour) => {
            references.mirror.behave(behaviour);
        }
        Fault::KillAgent { after_ms } => {
            references.mirror.behave(Behaviour::Honest);
            references.mirror.order(Some(killing_order(after_ms)));
        }
        _ => {}
    }
}

/// Undoes the fault after the build: makes the mirror respond correctly, and frees space.
pub(crate) fn undo(draw: &Draw, site: &Site, references: &References) -> Result<()> {
    references.mirror.behave(Behaviour::Honest);
    references.mirror.order(None);
    match draw.fault {
        Fault::Full { place, .. } => make_room(&full_folder(place, site)),
        _ => Ok(()),
    }
}

/// Returns a script for a guest that overwrites the code of the guest's process 1 after a delay.
fn killing_order(after_ms: u64) -> String {
    let seconds = Duration::from_millis(after_ms).as_secs_f64();
    format!(
        "(sleep {seconds}\n\
         range=$(grep -m1 ' r-xp ' /proc/1/maps)\n\
         start=$((0x${{range%%-*}}))\n\
         dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((start / 4096)) count=256 conv=notrunc\n\
         ) >/dev/null 2>&1 </dev/null &\n"
    )
}

/// Waits for the moment and injects the fault.
pub(crate) fn strike(
    run: &mut Run,
    draw: &mut Draw,
    site: &Site,
    references: &References,
    pace: Pace,
) -> Result<Struck> {
    if let Fault::Mirror(_) | Fault::BaseMirror(_) | Fault::KillAgent { .. } = draw.fault {
        return of_mirror(run, draw, references);
    }
    let Some(at) = run.reach(draw.moment, pace)? else { return Ok(Struck::TooLate) };
    match draw.fault.clone() {
        Fault::Kill { victim, signal } => {
            let mut pid = None;
            let found = run.wait_for(|run| {
                pid = find(run.pid(), victim);
                pid.is_some()
            })?;
            let Some(pid) = pid.filter(|_| found) else { return Ok(Struck::TooLate) };
            let number = match signal {
                Signal::Kill => Number::SIGKILL,
                Signal::Term => Number::SIGTERM,
            };
            let sent = kill(Pid::from_raw(pid), number);
            Ok(if sent.is_ok() { Struck::done(at) } else { Struck::TooLate })
        }
        Fault::Full { place, room_kib } => {
            make_full(&full_folder(place, site), room_kib)?;
            Ok(Struck::done(at))
        }
        Fault::Io { drive, calls, count } => {
            let mut victim = None;
            let found = run.wait_for(|run| {
                victim = drive_of(run.pid(), drive, site);
                victim.is_some()
            })?;
            let Some((process, path)) = victim.filter(|_| found) else {
                return Ok(Struck::TooLate);
            };
            trace(&process, &path, calls, count, at)
        }
        Fault::Damage { what, how } => {
            let mut file = None;
            let found = run.wait_for(|_| {
                file = stored(what, site, &mut draw.chance);
                file.is_some()
            })?;
            let Some(file) = file.filter(|_| found) else { return Ok(Struck::TooLate) };
            // If another process has just removed the file, no fault is needed.
            let done = damage(&file, how, &mut draw.chance).is_ok();
            let name = file.strip_prefix(site.store()).unwrap_or(&file).display().to_string();
            Ok(if done { Struck::done(format!("{name}, {at}")) } else { Struck::TooLate })
        }
        Fault::Mirror(_) | Fault::BaseMirror(_) | Fault::KillAgent { .. } => Ok(Struck::TooLate),
    }
}

/// Waits for a fault of the mirror, which happens on a request.
fn of_mirror(run: &mut Run, draw: &Draw, references: &References) -> Result<Struck> {
    if !run.wait_for(|_| references.mirror.misled() > 0)? {
        return Ok(if references.mirror.misled() > 0 {
            Struck::done("the mirror was asked".into())
        } else {
            Struck::TooLate
        });
    }
    if let Fault::Mirror(Behaviour::Stalls { .. }) | Fault::BaseMirror(Behaviour::Stalls { .. }) =
        draw.fault
    {
        let until = Instant::now() + PATIENCE;
        if run.wait_for(|_| Instant::now() >= until)? {
            let _ = kill(Pid::from_raw(run.pid()), Number::SIGTERM);
        }
    }
    Ok(Struck::done("the mirror was asked".into()))
}

/// Finds the process to kill.
fn find(vbuild: i32, victim: Victim) -> Option<i32> {
    let is_vsock = |words: &str| words.contains(" __vmm vhost-vsock");
    let has = |words: &str| match victim {
        Victim::Vbuild => false,
        Victim::Machine => {
            words.contains("qemu-system-") || words.contains(" __vmm") && !is_vsock(words)
        }
        Victim::Vsock => is_vsock(words),
    };
    if victim == Victim::Vbuild {
        return Some(vbuild);
    }
    below(vbuild).into_iter().find(|process| has(&process.words)).map(|process| process.pid)
}

/// Finds the machine that has a drive open, and the drive's file.
fn drive_of(vbuild: i32, drive: Drive, site: &Site) -> Option<(Process, PathBuf)> {
    let (run, appliance) = (site.run(), site.cache().join("appliance"));
    let is_it = |path: &PathBuf| {
        let text = path.to_string_lossy();
        match drive {
            Drive::Helper => *path == site.drive(),
            Drive::Appliance => path.starts_with(&appliance),
            _ if !path.starts_with(&run) => false,
            Drive::Scratch => text.contains("scratch"),
            Drive::Layer => text.ends_with(".qcow2"),
            Drive::Target => text.ends_with(".raw") && !text.contains("scratch"),
        }
    };
    let machines =
        below(vbuild).into_iter().filter(|process| process.words.contains("qemu-system-"));
    machines.into_iter().find_map(|process| {
        // The newest layer is the one being written; its name is the greatest.
        let path = process.files().into_iter().filter(is_it).max()?;
        Some((process, path))
    })
}

/// Makes operations on a file fail for a process.
fn trace(process: &Process, path: &Path, calls: Calls, count: Count, at: String) -> Result<Struck> {
    let (reads, writes) = ("pread64,preadv,preadv2", "pwrite64,pwritev,pwritev2,fallocate");
    let flushes = "fdatasync,fsync";
    let calls = match calls {
        Calls::Reads => reads.to_owned(),
        Calls::Writes => writes.to_owned(),
        Calls::Flushes => flushes.to_owned(),
        Calls::All => [reads, writes, flushes].join(","),
    };
    let when = match count {
        Count::One(number) => number.to_string(),
        Count::AllFrom(number) => format!("{number}+"),
    };
    let started = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:error=EIO:when={when}"), "-P"])
        .arg(path)
        .args(["-p", &process.pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return Ok(Struck::Impossible(format!("strace: {error}"))),
    };
    let begun = Instant::now();
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid));
        let Ok(status) = status else { break };
        if !status.contains("TracerPid:\t0\n") {
            break;
        }
        if child.try_wait()?.is_some() {
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                std::io::Read::read_to_string(&mut stderr, &mut said)?;
            }
            if said.contains("No such process") || said.trim().is_empty() {
                return Ok(Struck::TooLate);
            }
            return Ok(Struck::Impossible(said.trim().to_owned()));
        }
        if begun.elapsed() > ATTACH_LIMIT {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let at = format!("{}, {at}", path.file_name().unwrap_or_default().display());
    Ok(Struck::Done { at, tracer: Some(Tracer(child)) })
}

/// Selects a file of the store.
fn stored(what: Stored, site: &Site, chance: &mut StdRng) -> Option<PathBuf> {
    let folder = site.store().join(match what {
        Stored::Object => "objects",
        Stored::Record => "stages",
    });
    let mut files = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files.choose(chance).cloned()
}

fn damage(file: &Path, how: Damage, chance: &mut StdRng) -> Result<()> {
    let mut content = fs::read(file)?;
    match how {
        Damage::FlippedBit => {
            let at = chance.gen_range(0..content.len().max(1));
            *content.get_mut(at).context("it is empty")? ^= 1 << chance.gen_range(0..8);
            overwrite(file, &content)
        }
        Damage::CutShort => {
            content.truncate(chance.gen_range(0..content.len().max(1)));
            overwrite(file, &content)
        }
        Damage::Empty => overwrite(file, b""),
        Damage::Gone => Ok(fs::remove_file(file)?),
        Damage::Garbage => {
            content.fill_with(|| chance.r#gen());
            overwrite(file, &content)
        }
        Damage::Unreadable => {
            fs::set_permissions(file, fs::Permissions::from_mode(0o0))?;
            Ok(())
        }
    }
}

/// Modifies a file in place, whatever its permissions.
fn overwrite(file: &Path, content: &[u8]) -> Result<()> {
    let permissions = fs::metadata(file)?.permissions();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    fs::OpenOptions::new().write(true).truncate(true).open(file)?.write_all(content)?;
    fs::set_permissions(file, permissions)?;
    Ok(())
}
