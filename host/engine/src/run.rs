//! Carries out a plan: stage after stage, in as few machines as it takes.
//!
//! ```text
//! for each stage:   a disk is missing, or a fresh machine is asked for?
//!                        └─ power off, boot, establish the base, open the layout
//!                   enter the stage's context (what differs is unmounted, mounted)
//!                   its steps
//!                   note what scripts left mounted
//! at the end, and after any failure:  unmount, close, power off
//! ```
//!
//! Everything that is acquired is released in reverse, and the end of the
//! machine releases what could not be.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use machine::{Drive, DriveFormat, DriveSerial, MachineSpec};
use plan::{Context, DiskRole, DiskSize, Plan, Stage, Step};
use session::{BootOptions, Session};

use crate::{
    Config, EngineError, State, adopt, base, context,
    events::Event,
    grow,
    guest::{self, Guest, HELPER_SERIAL, ROOT_SERIAL, disk_serial},
    layout, run_parts, steps,
};

/// How long a guest may take to unmount after a failure or an interrupt, before
/// it is ended the hard way.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// What a build has made.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// The disk files by name: sparse, raw.
    pub disks: BTreeMap<String, PathBuf>,
    /// The facts at the end.
    pub facts: BTreeMap<String, String>,
}

/// Runs a plan to its end. The disks stay in [`Config::build_dir`].
///
/// # Errors
/// The first failure. The guest is then stopped cleanly where that is possible,
/// so that the user's helper drive is left unmounted.
pub async fn run(plan: &Plan, config: &Config) -> Result<Built, EngineError> {
    let live: Live = Live::default();
    let mut cancel = config.cancel.clone();
    let outcome = tokio::select! {
        built = run_stages(plan, config, &live) => built,
        () = cancelled(&mut cancel) => Err(EngineError::Cancelled),
    };
    let session = live.lock().ok().and_then(|mut slot| slot.take());
    if let (Err(_), Some(session)) = (&outcome, session) {
        // The failure is what counts; a guest that cannot be stopped cleanly is
        // killed when the session is dropped.
        let _ = tokio::time::timeout(STOP_DEADLINE, session.shutdown(true)).await;
    }
    outcome
}

/// The session of the machine that runs now, for whoever must stop it.
type Live = Arc<Mutex<Option<Session>>>;

async fn cancelled(cancel: &mut tokio::sync::watch::Receiver<bool>) {
    if cancel.wait_for(|stop| *stop).await.is_err() {
        // Nobody can cancel any more.
        std::future::pending::<()>().await;
    }
}

async fn run_stages(plan: &Plan, config: &Config, live: &Live) -> Result<Built, EngineError> {
    let started = Instant::now();
    let emit = |event: &Event| config.observer.event(event);
    emit(&Event::BuildStarted { name: plan.name.clone(), stages: plan.stages.len() });
    let mut state = State::default();
    let mut guest: Option<Guest> = None;
    let mut previous: Option<&Context> = None;
    for (index, stage) in plan.stages.iter().enumerate() {
        emit(&Event::StageStarted { index, name: stage.name.clone() });
        let stage_started = Instant::now();
        if let Some(running) = guest.take() {
            let renew = config.fresh_machine_per_stage || lacks_disk(plan, &running, &state);
            guest = if renew {
                stop(running, &mut state, live).await?;
                None
            } else {
                Some(running)
            };
        }
        let mut running = match guest.take() {
            Some(running) => running,
            None => {
                previous = None;
                start(plan, config, &mut state, live).await?
            }
        };
        let fresh = previous.is_none();
        context::enter(&mut running, &stage.context, previous, &mut state).await?;
        if fresh {
            let before = index.checked_sub(1).map(|before| &plan.stages[before].context);
            context::forget_left(&stage.context, before, &mut state);
            context::restore_carried(&running, &state).await?;
        }
        for step in &stage.steps {
            run_step(step, plan, stage, config, &running, &mut state).await?;
        }
        context::note_carried(&running, &mut state).await?;
        previous = Some(&stage.context);
        guest = Some(running);
        let elapsed = stage_started.elapsed();
        emit(&Event::StageFinished { index, name: stage.name.clone(), elapsed });
    }
    if let Some(running) = guest {
        stop(running, &mut state, live).await?;
    }
    let disks = plan
        .disks
        .iter()
        .filter(|disk| disk.role == DiskRole::Target)
        .map(|disk| (disk.name.clone(), disk_file(config, &disk.name)))
        .collect();
    emit(&Event::BuildFinished { elapsed: started.elapsed() });
    Ok(Built { disks, facts: state.facts })
}

fn disk_file(config: &Config, name: &str) -> PathBuf {
    config.build_dir.join("disks").join(format!("{name}.raw"))
}

/// The size of a disk, once it is known.
fn disk_bytes(size: &DiskSize, state: &State) -> Result<Option<u64>, EngineError> {
    match size {
        DiskSize::Bytes(bytes) => Ok(Some(*bytes)),
        DiskSize::FactKib(fact) => match state.facts.get(fact) {
            None => Ok(None),
            Some(text) => text
                .parse::<u64>()
                .ok()
                .and_then(|kib| kib.checked_mul(1024))
                .map(Some)
                .ok_or_else(|| {
                    EngineError::Recipe(format!("the fact `{fact}` is `{text}`, which is no size"))
                }),
        },
    }
}

/// Whether a disk has got its size while the guest ran without it.
fn lacks_disk(plan: &Plan, guest: &Guest, state: &State) -> bool {
    plan.disks.iter().any(|disk| {
        guest.device(&disk.name).is_none() && matches!(disk_bytes(&disk.size, state), Ok(Some(_)))
    })
}

/// Makes the files of disks whose size is known and describes all drives.
fn drives(plan: &Plan, config: &Config, state: &State) -> Result<Vec<Drive>, EngineError> {
    let drive = |serial: &str, path: PathBuf| -> Result<Drive, EngineError> {
        let serial = DriveSerial::new(serial).map_err(|e| EngineError::Recipe(e.to_string()))?;
        Ok(Drive {
            serial,
            path,
            format: DriveFormat::Raw,
            read_only: false,
            durable: false,
            block_size: machine::BlockSize::B512,
        })
    };
    let mut drives =
        vec![Drive { read_only: true, ..drive(ROOT_SERIAL, config.appliance.root.clone())? }];
    for (index, disk) in plan.disks.iter().enumerate() {
        let Some(bytes) = disk_bytes(&disk.size, state)? else { continue };
        let path = disk_file(config, &disk.name);
        base::make_disk(&path, bytes, disk.base.as_ref()).map_err(|source| EngineError::Host {
            action: "make the disk".into(),
            path: path.clone(),
            source,
        })?;
        let block_size = if disk.block_bytes == 4096 {
            machine::BlockSize::B4096
        } else {
            machine::BlockSize::B512
        };
        drives.push(Drive { block_size, ..drive(&disk_serial(index), path)? });
    }
    if let Some(helper) = &config.helper {
        let base = drive(HELPER_SERIAL, helper.path.clone())?;
        drives.push(Drive { format: helper.format, durable: true, ..base });
    }
    Ok(drives)
}

async fn start(
    plan: &Plan,
    config: &Config,
    state: &mut State,
    live: &Live,
) -> Result<Guest, EngineError> {
    config.observer.event(&Event::MachineStarting {
        accel: config.accel.clone(),
        vcpus: config.vcpus,
        memory_mib: config.memory_mib,
    });
    let nobody: machine::OnGuestConnect = Arc::new(|_| machine::ConnectDecision::Refuse);
    let spec = MachineSpec {
        name: plan.name.clone(),
        vcpus: config.vcpus,
        memory_mib: config.memory_mib,
        kernel: config.appliance.kernel.clone(),
        initrd: config.appliance.initrd.clone(),
        cmdline: vec![format!("vbuild.root={ROOT_SERIAL}")],
        drives: drives(plan, config, state)?,
        on_guest_connect: config.network.clone().unwrap_or(nobody),
        verbose_console: config.verbose_console,
        run_dir: config.build_dir.clone(),
    };
    let session = session::boot(config.backend.as_ref(), spec, &BootOptions::default())
        .await
        .map_err(|source| EngineError::Prepare { action: "boot".into(), source })?;
    if let Ok(mut slot) = live.lock() {
        *slot = Some(session.clone());
    }
    config.observer.event(&Event::MachineReady {
        boot: session.hello().boot,
        kernel: session.hello().kernel.clone(),
    });
    let guest = guest::establish(session, plan, config, state).await?;
    layout::open(plan, &guest, state).await?;
    Ok(guest)
}

/// Unmounts, closes and powers off; the disks are then whole.
async fn stop(mut guest: Guest, state: &mut State, live: &Live) -> Result<(), EngineError> {
    // Contexts are left through the empty one; carried mounts are kept in the
    // state, because the next machine makes them again.
    let carried = state.carried.clone();
    context::enter(&mut guest, &Context::default(), None, state).await?;
    state.carried = carried;
    layout::close(&guest, state).await?;
    if let Ok(mut slot) = live.lock() {
        *slot = None;
    }
    guest
        .session
        .shutdown(true)
        .await
        .map_err(|source| EngineError::Prepare { action: "power off".into(), source })
}

async fn run_step(
    step: &Step,
    plan: &Plan,
    stage: &Stage,
    config: &Config,
    guest: &Guest,
    state: &mut State,
) -> Result<(), EngineError> {
    // Commands tell about themselves.
    let loud = matches!(
        step,
        Step::Upload(_)
            | Step::CreateLayout(_)
            | Step::FindRoot { .. }
            | Step::GrowRoot { .. }
            | Step::CopyTree { .. }
            | Step::Fetch { .. }
            | Step::ExportTree { .. }
            | Step::Trim
    );
    let started = Instant::now();
    let title = step.title();
    if loud {
        config.observer.event(&Event::StepStarted { title: title.clone() });
    }
    match step {
        Step::Upload(upload) => steps::upload(upload, guest, stage).await?,
        Step::Run(run) => run_parts::run_one(run, guest, stage, config, state).await?,
        Step::RunParts(parts) => run_parts::run(parts, guest, stage, config, state).await?,
        Step::File(file) => steps::file(file, guest, stage).await?,
        Step::ResolvConf(action) => steps::resolv_conf(*action, guest, stage, config).await?,
        Step::RequireContent { path, ignore, message } => {
            steps::require_content(guest, stage, path, ignore, message).await?;
        }
        Step::SetFact { fact, value } => {
            let value = crate::command::resolve(value, state)?;
            state.facts.insert(fact.clone(), value);
        }
        Step::ImageSize(size) => steps::image_size(size, guest, stage, state).await?,
        Step::CreateLayout(part) => layout::create(part, plan, config, guest, state).await?,
        Step::FindRoot { disk } => adopt::find_root(disk, plan, config, guest, state).await?,
        Step::GrowRoot { disk } => grow::grow_root(disk, config, guest, state).await?,
        Step::ForgetLayout => adopt::forget(guest, state).await?,
        Step::WriteFstab { path } => {
            let content = layout::fstab(state)?;
            let step = plan::FileStep::Write { path: path.clone(), content, mode: 0o644 };
            steps::file(&step, guest, stage).await?;
        }
        Step::CopyTree { from, to } => steps::copy_tree(guest, from, to).await?,
        Step::KillProcesses { root } => steps::kill_processes(guest, stage, root).await?,
        Step::Fetch { from, to } => steps::fetch(guest, stage, config, from, to).await?,
        Step::ExportTree { root, exclude, output } => {
            steps::export(guest, stage, config, root, exclude, output).await?;
        }
        Step::Trim => {
            for mount in guest.mounted.iter().map(|mounted| &mounted.spec) {
                if mount.source.starts_with("/dev/") && !mount.fstype.is_empty() {
                    layout::trim(guest, &mount.target).await?;
                }
            }
        }
        Step::Say { text } => config.observer.event(&Event::Message { text: text.clone() }),
    }
    if loud {
        config.observer.event(&Event::StepFinished { title, elapsed: started.elapsed() });
    }
    Ok(())
}
