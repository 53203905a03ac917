//! Runs a plan, stage after stage, in as few machines as possible.
//!
//! ```text
//! the disks of the last stage that the store has are restored
//! for each stage behind it:
//!                   a disk is missing, or a fresh machine is asked for?
//!                        └─ power off, boot, establish the base, open the layout
//!                   enter the stage's context (what differs is unmounted, mounted)
//!                   its steps
//!                   note what scripts left mounted
//!                   worth it? freeze, put a layer on every disk, thaw; what is
//!                        below goes into the store while the next stage runs
//! at the end, and after any failure:  unmount, close, power off
//! ```
//!
//! Everything that is acquired is released in reverse order. The end of the machine releases the
//! rest.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use machine::{Drive, DriveFormat, DriveSerial, MachineSpec};
use plan::{Context, DiskName, Plan, RunParts, Stage, Step};
use session::{BootOptions, Session};

use crate::{
    Config, EngineError, PauseContext, State,
    cache::{CacheSession, Ended, Progress, Saved, StageRecorder},
    context,
    disks::{Disks, disk_bytes},
    events::Event,
    guest::{self, Guest, HELPER_SERIAL, ROOT_SERIAL, TOOLS},
    layout,
    step_context::StepContext,
    steps::{
        self,
        run_parts::{self, Phase},
    },
};

/// Time limit for a guest to unmount after a failure or an interrupt; then it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// The result of a build.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// The files of the target disks by name. They are sparse and raw.
    pub disks: BTreeMap<DiskName, PathBuf>,
    /// The facts at the end of the build.
    pub facts: BTreeMap<String, String>,
    /// The time when the network was first used for this result, in seconds since 1970; `None` if
    /// it was not used, or if the time is unknown.
    pub fetched: Option<u64>,
    /// The shared cache whose result the build started from, if there is one.
    pub origin: Option<store::Origin>,
}

/// Runs a plan to its end. The disks stay in [`Config::build_dir`].
///
/// # Errors
/// Returns the first failure. The guest is then shut down cleanly if possible, so that the user's
/// helper drive is unmounted.
pub async fn run(plan: &Plan, config: &Config) -> Result<Built, EngineError> {
    let live: Live = Live::default();
    let mut cancel = config.cancel.clone();
    let recorder = StageRecorder::new(Arc::clone(&config.observer));
    let config = Config { observer: recorder.clone(), ..config.clone() };
    let mut build = Build {
        plan,
        state: State::default(),
        guest: None,
        previous: None,
        files: Disks::new(&config.build_dir),
        cache: CacheSession::begin(plan, &config, recorder)?,
        progress: None,
        live: Arc::clone(&live),
        config: &config,
    };
    let outcome = tokio::select! {
        built = build.run() => built,
        () = cancelled(&mut cancel) => Err(EngineError::Cancelled),
    };
    let session = live.lock().ok().and_then(|mut slot| slot.take());
    if let (Err(_), Some(session)) = (&outcome, session) {
        // The first failure is reported. A guest that cannot be shut down cleanly is killed when
        // the session is dropped.
        let _ = tokio::time::timeout(STOP_DEADLINE, session.shutdown(true)).await;
    }
    // Wait until saved results are stored, so that the next build can resume from them.
    let cache = build.cache.take();
    let _ = tokio::task::spawn_blocking(move || drop(cache)).await;
    outcome
}

/// The session of the running machine, for the code that must stop it.
type Live = Arc<Mutex<Option<Session>>>;

async fn cancelled(cancel: &mut tokio::sync::watch::Receiver<bool>) {
    if cancel.wait_for(|stop| *stop).await.is_err() {
        // The sender is gone, so the build can no longer be cancelled.
        std::future::pending::<()>().await;
    }
}

/// A running build.
struct Build<'a> {
    plan: &'a Plan,
    config: &'a Config,
    live: Live,
    state: State,
    guest: Option<Guest>,
    /// The context that the guest is in; `None` in a fresh guest.
    previous: Option<&'a Context>,
    files: Disks,
    cache: Option<CacheSession>,
    /// The progress of the first stage at the checkpoint that the build resumes from.
    progress: Option<Progress>,
}

impl Build<'_> {
    async fn run(&mut self) -> Result<Built, EngineError> {
        let started = Instant::now();
        let name = self.plan.name.clone();
        self.emit(&Event::BuildStarted { name, stages: self.plan.stages.len() });
        if self.config.pause.as_ref().is_some_and(|pause| !pause.before.is_empty()) {
            // The user may change things by hand: no results are used, and none are saved.
            self.cache = None;
        }
        let first = self.restore().await?;
        let end = self.config.pause.as_ref().and_then(|pause| pause.after);
        let end = end.unwrap_or(self.plan.stages.len()).min(self.plan.stages.len());
        for index in first..end {
            self.stage(index).await?;
        }
        self.pause_before(end).await?;
        if let Some(pause) = self.config.pause.as_ref().filter(|pause| pause.after.is_some()) {
            self.pause_at_end(end, pause).await?;
        }
        self.power_off().await?;
        let fetched = self.cache.as_ref().and_then(|cache| cache.fetched);
        let origin = self.cache.as_ref().and_then(|cache| cache.origin.clone());
        if end == self.plan.stages.len() {
            self.make_whole().await?;
        }
        self.emit(&Event::BuildFinished { elapsed: started.elapsed() });
        let disks = self.files.targets(self.plan);
        Ok(Built { disks, facts: self.state.facts.clone(), fetched, origin })
    }

    fn emit(&self, event: &Event) {
        self.config.observer.event(event);
    }

    /// Restores the disks of the last usable result in the store. Returns the first stage that must
    /// run.
    async fn restore(&mut self) -> Result<usize, EngineError> {
        let Some(cache) = &mut self.cache else { return Ok(0) };
        let Some(saved) = cache.restore(self.plan, &mut self.files).await? else { return Ok(0) };
        self.state = saved.state;
        self.progress = saved.progress;
        let first = cache.first();
        for (index, stage) in self.plan.stages.iter().enumerate().take(first) {
            self.emit(&Event::StageCached { index, name: stage.name.clone() });
        }
        Ok(first)
    }

    async fn stage(&mut self, index: usize) -> Result<(), EngineError> {
        self.pause_before(index).await?;
        let stage = &self.plan.stages[index];
        if let Some(why) = self.cache.as_ref().and_then(|cache| cache.reason(index)) {
            self.emit(&Event::Message { text: format!("{} runs: {why}", stage.name) });
        }
        if self.progress.is_some()
            && let Some(script) = self.cache.as_ref().and_then(CacheSession::resumes_at)
        {
            let text = format!("{} goes on at {script}; what is before it is kept", stage.name);
            self.emit(&Event::Message { text });
        }
        self.emit(&Event::StageStarted { index, name: stage.name.clone() });
        let started = Instant::now();
        self.enter(index).await?;
        let worked = Instant::now();
        if let Some(cache) = &mut self.cache {
            cache.begin_work();
        }
        let plan = self.plan;
        let progress = self.progress.take();
        let done = progress.as_ref().map_or(0, |progress| progress.step);
        let mut phase = progress.map(|progress| progress.phase);
        for (number, step) in stage.steps.iter().enumerate().skip(done) {
            let done = match step {
                Step::RunParts(parts) => self.phase(index, number, parts, phase.take()).await,
                step => match self.step_context(stage) {
                    Ok(mut cx) => steps::run(step, &mut cx).await,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = done {
                self.pause_on_failure(stage).await;
                return Err(error);
            }
        }
        let Some(running) = &self.guest else { return Err(no_guest()) };
        context::note_carried(running, &mut self.state).await?;
        if self.state.has_own_device() {
            // The device exists only in this machine, so no result can be saved from now on.
            let cache = self.cache.take();
            let _ = tokio::task::spawn_blocking(move || drop(cache)).await;
        }
        let elapsed = started.elapsed();
        self.emit(&Event::StageFinished { index, name: stage.name.clone(), elapsed });
        if let Some(cache) = &mut self.cache {
            cache
                .save_stage(
                    Ended { plan, index, elapsed: worked.elapsed() },
                    running,
                    &self.state,
                    &mut self.files,
                )
                .await?;
        }
        Ok(())
    }

    fn step_context<'b>(&'b mut self, stage: &'b Stage) -> Result<StepContext<'b>, EngineError> {
        let Some(guest) = &self.guest else { return Err(no_guest()) };
        let (plan, config, state) = (self.plan, self.config, &mut self.state);
        Ok(StepContext { plan, stage, config, guest, state })
    }

    /// Runs the scripts of a phase, or the remaining ones of a phase that has begun. Between two
    /// scripts the disks are saved if it is worth it.
    async fn phase(
        &mut self,
        index: usize,
        step: usize,
        parts: &RunParts,
        begun: Option<Phase>,
    ) -> Result<(), EngineError> {
        let plan = self.plan;
        let stage = &plan.stages[index];
        let mut phase = match begun {
            Some(phase) => phase,
            None => run_parts::begin(parts, &self.step_context(stage)?).await?,
        };
        let started = Instant::now();
        while phase.next(parts).is_some() {
            run_parts::next(parts, &mut phase, &mut self.step_context(stage)?).await?;
            let Some(guest) = &self.guest else { return Err(no_guest()) };
            let Some(cache) = &mut self.cache else { continue };
            if phase.next(parts).is_none() || !cache.wants_checkpoint(index, &self.files) {
                continue;
            }
            context::note_carried(guest, &mut self.state).await?;
            if self.state.has_own_device() {
                continue;
            }
            let saved = Saved {
                state: self.state.clone(),
                progress: Some(Progress { step, phase: phase.clone() }),
            };
            let ended = Ended { plan, index, elapsed: started.elapsed() };
            cache.save_checkpoint(ended, &saved, guest, &mut self.files).await?;
        }
        Ok(())
    }

    /// Brings the guest into the context of a stage. Starts a machine if none is running, or if the
    /// stage needs a fresh one.
    async fn enter(&mut self, index: usize) -> Result<(), EngineError> {
        let stage = &self.plan.stages[index];
        if let Some(network) = &self.config.network {
            if stage.network { network.open() } else { network.close(&no_network(stage)) }
        }
        let renew = |guest: &Guest| {
            self.config.fresh_machine_per_stage || lacks_disk(self.plan, guest, &self.state)
        };
        if self.guest.as_ref().is_some_and(renew) {
            self.power_off().await?;
        }
        if self.guest.is_none() {
            self.start().await?;
        }
        let Some(running) = &mut self.guest else { return Err(no_guest()) };
        let fresh = self.previous.is_none();
        let observer = &self.config.observer;
        context::enter(running, &stage.context, self.previous, &mut self.state, observer).await?;
        if fresh {
            let before = index.checked_sub(1).map(|before| &self.plan.stages[before].context);
            context::forget_left(&stage.context, before, &mut self.state);
            context::restore_carried(running, &self.state).await?;
        }
        self.previous = Some(&stage.context);
        Ok(())
    }

    async fn start(&mut self) -> Result<(), EngineError> {
        let config = self.config;
        self.emit(&Event::MachineStarting {
            accel: config.accel.clone(),
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
        });
        let refuse: machine::OnGuestConnect = Arc::new(|_| machine::ConnectDecision::Refuse);
        let connect_egress =
            config.network.as_ref().map_or(refuse, |network| network.on_guest_connect());
        let spec = MachineSpec {
            architecture: config.appliance.architecture,
            name: self.plan.name.clone(),
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            kernel: config.appliance.kernel.clone(),
            initrd: config.appliance.initrd.clone(),
            cmdline: vec![format!("vbuild.root={ROOT_SERIAL}")],
            drives: self.drives()?,
            on_guest_connect: match &self.cache {
                Some(cache) => cache.counted(connect_egress),
                None => connect_egress,
            },
            verbose_console: config.verbose_console,
            start: machine::Start::Boot,
            run_dir: config.build_dir.clone(),
        };
        let (backend, options) = (config.backend.as_ref(), BootOptions::default());
        let session = session::start(config.warm.as_ref(), backend, spec, &options)
            .await
            .map_err(|source| EngineError::Prepare { action: "boot".into(), source })?;
        if let Ok(mut slot) = self.live.lock() {
            *slot = Some(session.clone());
        }
        self.emit(&Event::MachineReady {
            boot: session.hello().boot,
            kernel: session.hello().kernel.clone(),
            restored: session.hello().restored,
        });
        if let Some(cache) = &mut self.cache {
            cache.protect(self.plan, &session, &mut self.files).await;
            cache.compare_clocks(&session).await;
        }
        let guest = guest::establish(session, self.plan, config, &mut self.state).await?;
        layout::open(self.plan, &guest, &mut self.state).await?;
        self.guest = Some(guest);
        Ok(())
    }

    /// Returns the drives of the machine: the appliance's root, the plan's disks and the helper
    /// drive.
    fn drives(&mut self) -> Result<Vec<Drive>, EngineError> {
        let drive = |serial: &str, path: PathBuf| -> Result<Drive, EngineError> {
            let serial =
                DriveSerial::new(serial).map_err(|e| EngineError::Recipe(e.to_string()))?;
            Ok(Drive {
                serial,
                path,
                format: DriveFormat::Raw,
                below: Vec::new(),
                read_only: false,
                durable: false,
                block_size: machine::BlockSize::B512,
            })
        };
        let root = drive(ROOT_SERIAL, self.config.appliance.root.clone())?;
        let mut drives = vec![Drive { read_only: true, ..root }];
        drives.extend(self.files.drives(self.plan, &self.state)?);
        if let Some(helper) = &self.config.helper {
            let base = drive(HELPER_SERIAL, helper.path.clone())?;
            drives.push(Drive { format: helper.format, durable: true, ..base });
        }
        Ok(drives)
    }

    /// Unmounts the context, closes the layout and powers the machine off. The disks are then
    /// consistent.
    async fn power_off(&mut self) -> Result<(), EngineError> {
        self.previous = None;
        let Some(mut guest) = self.guest.take() else { return Ok(()) };
        // A context is left by entering the empty one. The carried mounts stay in the state,
        // because the next machine makes them again.
        let carried = self.state.carried.clone();
        let observer = &self.config.observer;
        context::enter(&mut guest, &Context::default(), None, &mut self.state, observer).await?;
        self.state.carried = carried;
        if self.state.has_own_device() {
            release_loops(&guest).await?;
        }
        layout::close(&guest, &self.state).await?;
        if let Ok(mut slot) = self.live.lock() {
            *slot = None;
        }
        guest
            .session
            .shutdown(true)
            .await
            .map_err(|source| EngineError::Prepare { action: "power off".into(), source })
    }

    /// Merges each target disk into one file, after its layers have been stored.
    async fn make_whole(&mut self) -> Result<(), EngineError> {
        let cache = self.cache.take();
        let _ = tokio::task::spawn_blocking(move || drop(cache)).await;
        self.files.flatten(self.plan)
    }

    /// Pauses after the last stage that runs, when the build ends early.
    async fn pause_at_end(
        &mut self,
        after: usize,
        pause: &crate::Pause,
    ) -> Result<(), EngineError> {
        // Changes that the user makes by hand are not saved.
        self.cache = None;
        let index = after.min(self.plan.stages.len().saturating_sub(1));
        if self.plan.stages.is_empty() {
            return Ok(());
        }
        self.enter(index).await?;
        let Some(guest) = &self.guest else { return Err(no_guest()) };
        self.open_network_for_user();
        pause.hook.inspect(pause_context(guest, &self.plan.stages[index], false)).await;
        Ok(())
    }

    /// Pauses before a stage, if the configuration asks for it.
    async fn pause_before(&mut self, index: usize) -> Result<(), EngineError> {
        let Some(pause) = self.config.pause.as_ref().filter(|v| v.before.contains(&index)) else {
            return Ok(());
        };
        // After the last stage, the guest is shown in the context of that stage.
        let index = index.min(self.plan.stages.len().saturating_sub(1));
        self.enter(index).await?;
        let Some(guest) = &self.guest else { return Err(no_guest()) };
        self.open_network_for_user();
        pause.hook.inspect(pause_context(guest, &self.plan.stages[index], false)).await;
        Ok(())
    }

    /// Opens the network for the user's work in a paused guest, even if the stage has none. The
    /// next stage sets it again.
    fn open_network_for_user(&self) {
        if let Some(network) = &self.config.network {
            network.open();
        }
    }

    /// Pauses after a failure, if the configuration asks for it.
    async fn pause_on_failure(&self, stage: &Stage) {
        let Some(pause) = self.config.pause.as_ref().filter(|pause| pause.on_failure) else {
            return;
        };
        if let Some(guest) = &self.guest {
            self.open_network_for_user();
            pause.hook.inspect(pause_context(guest, stage, true)).await;
        }
    }
}

/// Returns the reason for refused connections in a stage without a network, with a remedy.
fn no_network(stage: &Stage) -> String {
    format!(
        "the stage `{}` has no network; `vbuild plan` shows the stages that have one, and a command \
         that needs it belongs into one of those",
        stage.name
    )
}

fn pause_context<'a>(guest: &'a Guest, stage: &'a Stage, failed: bool) -> PauseContext<'a> {
    let image = stage.context.image_at().map(Guest::tools_path);
    PauseContext { session: &guest.session, stage, tools: TOOLS, image, failed }
}

/// Releases the loop devices that block-device.d has made on files of the scratch disk, which would
/// keep that disk busy.
async fn release_loops(guest: &Guest) -> Result<(), EngineError> {
    let failed = |source| EngineError::Prepare { action: "release loop devices".into(), source };
    let mounts = guest.session.mounts().await.map_err(failed)?;
    for mount in mounts.iter().rev().filter(|mount| mount.source.starts_with("/dev/loop")) {
        guest.session.unmount(&mount.target).await.map_err(failed)?;
    }
    guest.run_tool(&["losetup", "--detach-all"]).await.map(drop)
}

fn no_guest() -> EngineError {
    EngineError::Recipe("the build machine is gone".into())
}

/// Whether a disk is missing in the guest, because its size became known only after the guest was
/// started.
fn lacks_disk(plan: &Plan, guest: &Guest, state: &State) -> bool {
    !state.has_own_device()
        && plan.disks.iter().any(|disk| {
            guest.device(disk.name.as_str()).is_none()
                && matches!(disk_bytes(&disk.size, state), Ok(Some(_)))
        })
}
