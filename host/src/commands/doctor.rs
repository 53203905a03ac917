//! `vbuild doctor`: checks everything that vbuild needs on this machine, and prints what to do
//! about each problem.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use machine::{
    MachineArchitecture,
    accel::{self, Accel, Emulator, Outcome as CheckOutcome, ProbeReport},
};

use confine::Confinement;
use qemu::{Qemu, QemuAccel};

use super::context::{Outcome, ProcessContext};
use crate::{
    build::{options, runtime},
    cli::{AccelArgs, CacheDirArgs, MemoryArgs, PackageArgs, SourceArgs},
    error::{CommandError, Kind, exit_status},
    machine::{appliance, backend, confinement, memory},
    settings::Settings,
    ui::bytes,
};

/// Free space in the cache that a first build needs, in bytes: for the appliance with its packages,
/// and the disks of one small image.
const CACHE_FREE_MIN_BYTES: u64 = 6 << 30;

/// The arguments of `vbuild doctor`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(after_help = "The exit status is 0 when builds can run here, however fast, and 3 when \
                        only --require-confinement would stop them.")]
pub(crate) struct DoctorArgs {
    /// The accelerator that a build would use.
    #[command(flatten)]
    pub(crate) accel: AccelArgs,
    /// The memory that the machine would have.
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// The packages of the appliance that would be used.
    #[command(flatten)]
    pub(crate) packages: PackageArgs,
    /// The sources of those packages.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The cache directory that would be used.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
}

/// The title of the section about the confinement of a machine's processes.
const CONFINEMENT: &str = "confinement";

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    /// The finding is worth knowing, but builds run nevertheless.
    Note,
    Bad,
    Skipped,
}

/// One line of the report, with a hint about what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    mark: Mark,
    text: String,
    hint: Option<String>,
}

impl Finding {
    fn new(mark: Mark, text: impl Into<String>) -> Self {
        Self { mark, text: text.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Runs all checks and prints the findings.
///
/// # Errors
/// Fails only if the report cannot be printed. Problems are part of the report, and decide the exit
/// status.
pub(crate) fn run(context: &ProcessContext, args: &DoctorArgs) -> Outcome {
    let DoctorArgs { accel, memory, packages, source, cache_dir } = args;
    let settings = options::appliance_settings(accel, packages, source, cache_dir);
    let memory_mib = memory.memsize.unwrap_or(settings.memory_mib);
    let report = backend::report();
    let emulator = qemu::emulator(MachineArchitecture::of_host(), None);
    let sections = [
        ("hardware virtualisation", kvm(&report)),
        ("QEMU", vec![emulation(&emulator)]),
        ("what runs the machine", vec![decision(settings.accel, &report, &emulator)]),
        (CONFINEMENT, confined(accel.require_confinement)),
        ("appliance", vec![appliance_state(&settings)]),
        ("this host", vec![space(&settings.cache_dir), memory_state(memory_mib)]),
    ];
    context.console.print(&text(&sections))?;
    let bad = |section: &(&str, Vec<Finding>)| section.1.iter().any(|it| it.mark == Mark::Bad);
    let (confined, others): (Vec<_>, Vec<_>) =
        sections[2..].iter().partition(|(title, _)| *title == CONFINEMENT);
    Ok(match (others.into_iter().any(bad), confined.into_iter().any(bad)) {
        (true, _) => exit_status(Kind::Host),
        (false, true) => exit_status(Kind::Unconfined),
        (false, false) => 0,
    })
}

fn text(sections: &[(&str, Vec<Finding>)]) -> String {
    let mut text = String::new();
    for (title, findings) in sections {
        let _ = writeln!(text, "{title}");
        for finding in findings {
            let mark = match finding.mark {
                Mark::Good => "ok",
                Mark::Note => "note",
                Mark::Bad => "FAIL",
                Mark::Skipped => "-",
            };
            let _ = writeln!(text, "  {mark:<5} {}", finding.text);
            if let Some(hint) = &finding.hint {
                let _ = writeln!(text, "        {hint}");
            }
        }
    }
    text
}

fn kvm(report: &ProbeReport) -> Vec<Finding> {
    let finding = |check: &accel::Check| {
        let mark = match check.outcome {
            CheckOutcome::Passed => Mark::Good,
            CheckOutcome::Failed => Mark::Bad,
            CheckOutcome::Skipped => Mark::Skipped,
        };
        let text = match &check.detail {
            Some(detail) => format!("{}: {detail}", check.name),
            None => check.name.clone(),
        };
        Finding { mark, text, hint: check.hint.clone() }
    };
    report.checks.iter().map(finding).collect()
}

fn emulation(emulator: &Emulator) -> Finding {
    match emulator {
        Emulator::Present { version } => Finding::new(Mark::Good, format!("version {version}")),
        Emulator::Absent { reason } => Finding::new(Mark::Bad, reason.clone())
            .hint("install QEMU (the package `qemu-system-x86`); where KVM works it is not needed"),
    }
}

fn decision(asked: Accel, report: &ProbeReport, emulator: &Emulator) -> Finding {
    match accel::decide(asked, MachineArchitecture::of_host(), report, emulator) {
        Ok(choice) => {
            let finding = Finding::new(Mark::Good, format!("--accel {asked}: {}", choice.reason));
            Finding { hint: choice.hint, ..finding }
        }
        Err(nothing) => Finding {
            hint: nothing.hint.clone(),
            ..Finding::new(Mark::Bad, format!("--accel {asked}: {nothing}"))
        },
    }
}

/// Reports the confinement of each process that handles data written by a guest. It is read from
/// processes that are started for this check.
fn confined(require: bool) -> Vec<Finding> {
    let judge = |held: Confinement| {
        let mark = match held.lacks().is_empty() {
            true => Mark::Good,
            false if require => Mark::Bad,
            false => Mark::Note,
        };
        let finding = Finding::new(mark, held.to_string());
        if mark == Mark::Good { finding } else { finding.hint(confinement::REMEDY) }
    };
    let failed = |error: String| Finding::new(Mark::Bad, error);
    let mut findings = match microvm::confinement(Path::new(confinement::SELF)) {
        Ok(held) => held.into_iter().map(judge).collect(),
        Err(error) => vec![failed(format!("a process cannot confine itself: {error}"))],
    };
    // A missing QEMU is reported in another section.
    if let Ok(qemu) = Qemu::new(MachineArchitecture::of_host(), None, QemuAccel::Tcg) {
        let asked = runtime::runtime().map(|runtime| runtime.block_on(qemu.confinement()));
        findings.push(match asked {
            Ok(Ok(held)) => judge(held),
            Ok(Err(error)) => failed(format!("QEMU: {error}")),
            Err(error) => failed(error.to_string()),
        });
    }
    findings
}

fn appliance_state(settings: &Settings) -> Finding {
    let found = appliance::request(settings)
        .and_then(|(request, _)| ::appliance::find(&request).map_err(CommandError::from));
    match found {
        Ok(Some(found)) => {
            let manifest = found.manifest();
            let text = format!(
                "{} with Linux {}, {}",
                manifest.release,
                manifest.kernel.release,
                bytes(manifest.root_bytes)
            );
            Finding::new(Mark::Good, text)
        }
        Ok(None) => Finding::new(Mark::Note, "none yet; the first build makes it")
            .hint("`vbuild appliance build` makes it now"),
        Err(error) => Finding {
            hint: error.hints.first().cloned(),
            ..Finding::new(Mark::Bad, error.to_string())
        },
    }
}

/// Reports the free space on the filesystem where the cache is or will be.
fn space(cache_dir: &Path) -> Finding {
    let place = existing_ancestor(cache_dir);
    let shown = cache_dir.display();
    if let Err(error) = rooted::private_existing(cache_dir)
        && error.is_distrust()
    {
        return Finding::new(Mark::Bad, format!("the cache {shown}: {error}"))
            .hint("--cache-dir or XDG_CACHE_HOME puts the cache elsewhere");
    }
    match nix::sys::statvfs::statvfs(&place) {
        Err(error) => Finding::new(Mark::Bad, format!("the cache {shown}: {error}")),
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let text = format!("the cache {shown}: {} free", bytes(free));
            match free < CACHE_FREE_MIN_BYTES {
                false => Finding::new(Mark::Good, text),
                true => Finding::new(Mark::Note, text).hint(format!(
                    "a first build needs about {}; --cache-dir puts the cache elsewhere",
                    bytes(CACHE_FREE_MIN_BYTES)
                )),
            }
        }
    }
}

fn existing_ancestor(path: &Path) -> PathBuf {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .filter(|ancestor| !ancestor.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

fn memory_state(guest_mib: u32) -> Finding {
    let needed = (u64::from(guest_mib) << 20) + memory::BESIDE_GUEST_BYTES;
    match memory::available() {
        None => Finding::new(Mark::Skipped, "memory: /proc/meminfo does not say"),
        Some(available) => {
            let (has, wants) = (bytes(available), bytes(needed));
            let text = format!("memory: {has} available, a build takes up to {wants}");
            match available < needed {
                false => Finding::new(Mark::Good, text),
                true => Finding::new(Mark::Note, text).hint("-m gives the machine less"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, outcome: CheckOutcome, hint: Option<&str>) -> accel::Check {
        accel::Check {
            name: name.into(),
            outcome,
            detail: Some(format!("about {name}")),
            hint: hint.map(str::to_owned),
        }
    }

    #[test]
    fn every_check_is_told_with_what_to_do() {
        let report = ProbeReport {
            checks: vec![
                check("open", CheckOutcome::Passed, None),
                check("speed", CheckOutcome::Failed, Some("buy a computer")),
                check("rest", CheckOutcome::Skipped, None),
            ],
        };
        let emulator = Emulator::Present { version: "10.0".into() };
        let sections = [("kvm", kvm(&report)), ("qemu", vec![emulation(&emulator)])];
        assert_eq!(
            text(&sections),
            "kvm
  ok    open: about open
  FAIL  speed: about speed
        buy a computer
  -     rest: about rest
qemu
  ok    version 10.0
"
        );
        assert_eq!(decision(Accel::Auto, &report, &emulator).mark, Mark::Good);
        let absent = Emulator::Absent { reason: "it is not in PATH".into() };
        assert_eq!(decision(Accel::Auto, &report, &absent).mark, Mark::Bad);
    }

    #[test]
    fn memory_is_read_from_the_kernels_table() {
        let table = "MemTotal:  100 kB\nMemAvailable:   4096 kB\n";
        assert_eq!(memory::available_in(table), Some(4 << 20));
        assert_eq!(memory::available_in("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn space_is_asked_of_what_exists() {
        assert_eq!(existing_ancestor(Path::new("/proc/no/such")), Path::new("/proc"));
        assert_eq!(existing_ancestor(Path::new("no-such-folder/x")), Path::new("."));
    }
}
