//! The choice of the backend that runs the machines of a run.

use std::{path::Path, sync::Arc};

use machine::{
    MachineArchitecture,
    accel::{self, Accel, CacheKey, Choice, Chosen, Emulator, ProbeCache, ProbeReport},
};
use qemu::{Qemu, QemuAccel};

use super::confinement::{self, Telling};
use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
};

/// The path of the KVM device.
pub(crate) const KVM: &str = "/dev/kvm";

/// A backend and a one-line description for the log.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The backend.
    pub backend: Arc<dyn machine::Backend>,
    /// Which backend it is, and why it was chosen.
    pub description: String,
}

/// Returns the report of the KVM probe, from the cache of this boot if there is one.
pub(crate) fn report() -> ProbeReport {
    let device = Path::new(KVM);
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let probe = || microvm::probe::probe(device);
    match CacheKey::of_this_process(env!("CARGO_PKG_VERSION"), device) {
        Ok(key) => ProbeCache::new(runtime.as_deref().map(Path::new)).get_or_probe(&key, probe),
        Err(_) => probe(),
    }
}

/// Decides what runs a machine on this host. Blocks while it probes KVM and QEMU.
///
/// # Errors
/// Fails if nothing can run a machine as asked.
pub(crate) fn decide(
    asked: Accel,
    architecture: MachineArchitecture,
) -> Result<Choice, CommandError> {
    // KVM and QEMU are probed only if the answer matters: each probe takes milliseconds of every
    // start.
    let may_use_kvm = asked != Accel::Tcg && architecture.is_of_host();
    let report = if may_use_kvm { report() } else { ProbeReport { checks: Vec::new() } };
    let usable = may_use_kvm && matches!(report.verdict(), accel::Verdict::Usable);
    let emulator = if usable {
        Emulator::Absent { reason: "not looked for".into() }
    } else {
        qemu::emulator(architecture, None)
    };
    accel::decide(asked, architecture, &report, &emulator).map_err(|nothing| {
        let hint = nothing.hint.clone();
        CommandError::new(Kind::Host, nothing).maybe_hint(hint)
    })
}

/// Chooses the backend. Warns if `--accel auto` falls back to translation.
///
/// # Errors
/// Fails if nothing can run a machine as asked, or a required layer of the confinement is missing.
pub async fn choose(settings: &Settings, ctx: &RunContext) -> Result<Backend, CommandError> {
    let (asked, architecture) = (settings.accel, settings.architecture);
    let decision = tokio::task::spawn_blocking(move || decide(asked, architecture))
        .await
        .map_err(|panic| CommandError::new(Kind::Host, panic))?;
    let choice = decision?;
    let program = settings.program.clone();
    let require = settings.require_confinement;
    if require {
        confinement::of_machines(program.clone()).await?;
    }
    let backend: Arc<dyn machine::Backend> = match (choice.chosen, program) {
        (Chosen::Microvm, None) => Arc::new(microvm::Microvm::new()),
        (Chosen::Microvm, Some(program)) => {
            Arc::new(microvm::Microvm::with_program(program, [microvm::VMM_VERB]))
        }
        (Chosen::QemuTcg, program) => {
            let qemu = Qemu::new(architecture, None, QemuAccel::Tcg)
                .map_err(|error| CommandError::new(Kind::Host, error))?;
            Arc::new(match program {
                Some(program) => qemu.with_helper(program),
                None => qemu,
            })
        }
    };
    if choice.chosen == Chosen::QemuTcg && asked == Accel::Auto {
        let hint = choice.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        ctx.warn(format!("accelerator: {}{hint}", choice.reason));
    }
    let backend = Arc::new(Telling::new(backend, Arc::clone(&ctx.observer), require));
    Ok(Backend { backend, description: choice.reason })
}
