//! Finds the appliance for a run in the cache, or builds it, and runs the first-stage microVM in
//! which an appliance is configured.

use std::{path::PathBuf, sync::Arc, time::Instant};

use ::appliance::{
    Appliance, Event as ApplianceEvent, Events, FirstStage, FirstStageSpec, Phase, Request,
};
use engine::{ApplianceFiles, events::Event};
use machine::{
    BlockSize, ConnectDecision, Drive, DriveFormat, DriveSerial, MachineArchitecture, MachineSpec,
    OnGuestConnect,
};
use plan::Digest;
use session::{BootOptions, ChildEvent, Session, SessionError};
use tokio::runtime::Handle;
use wire::{ExitStatus, MountSpec};

use super::{agent, backend::Backend, build_dir::BuildDir, ca};
use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
};

/// The directory on which the first stage mounts the image that it configures.
const IMAGE: &str = "/vbuild/image";

/// Returns the request for the appliance of the settings, and the agent's digest.
///
/// # Errors
/// Fails if the agent is missing or certificates cannot be found.
pub(crate) fn request(settings: &Settings) -> Result<(Request, Digest), CommandError> {
    let (agent, digest) = agent::locate(&settings.cache_dir, settings.architecture)?;
    let ca_file = settings
        .ca_bundle
        .as_ref()
        .map(ca::file)
        .transpose()
        .map_err(|error| CommandError::new(Kind::Usage, error))?;
    let mut request = Request::new(settings.cache_dir.clone(), agent);
    request.architecture = settings.architecture;
    request.extra_packages.clone_from(&settings.appliance_packages);
    request.mirror.clone_from(&settings.mirror);
    request.ca_file = ca_file;
    Ok((request, digest))
}

/// Returns the appliance's files for the engine.
///
/// # Errors
/// Fails if the initramfs for this agent cannot be written.
pub(crate) fn files(
    found: &Appliance,
    request: &Request,
    agent: Digest,
) -> Result<ApplianceFiles, CommandError> {
    let initrd = found.initrd_for(&request.agent)?;
    Ok(ApplianceFiles {
        architecture: request.architecture,
        kernel: found.kernel(),
        initrd,
        root: found.root_image(),
        digest: Digest::of(format!("{}/{agent}", found.digest()).as_bytes()),
    })
}

/// Finds the appliance of the settings, or builds it.
///
/// # Errors
/// Fails if the appliance can neither be found nor built.
pub async fn find_or_build(
    settings: &Settings,
    backend: &Backend,
    build_dir: &BuildDir,
    ctx: &RunContext,
) -> Result<ApplianceFiles, CommandError> {
    let (request, agent) = request(settings)?;
    let found = match ::appliance::find(&request)? {
        Some(found) => found,
        None => {
            ctx.say("making the appliance: this is done once and takes a few minutes");
            build(&request, settings, backend, build_dir, ctx).await?
        }
    };
    files(&found, &request, agent)
}

/// Builds the appliance of a request.
///
/// # Errors
/// Fails if the mirror, a signature, a package or the first stage fails, or if the run is stopped.
pub(crate) async fn build(
    request: &Request,
    settings: &Settings,
    backend: &Backend,
    build_dir: &BuildDir,
    ctx: &RunContext,
) -> Result<Appliance, CommandError> {
    let started = Instant::now();
    let stage = MicrovmStage {
        backend: Arc::clone(&backend.backend),
        architecture: settings.architecture,
        vcpus: settings.vcpus,
        run_dir: build_dir.path().to_owned(),
        verbose_console: settings.verbose_console,
        handle: Handle::current(),
    };
    let (request, mut events) =
        (request.clone(), ApplianceView { ctx: ctx.clone(), last_tenth: None });
    let mut cancel = ctx.cancel.clone();
    let work =
        tokio::task::spawn_blocking(move || ::appliance::build(&request, &stage, &mut events));
    let built = tokio::select! {
        built = work => built,
        // The thread cannot be stopped in the middle of a download, but the process ends soon, and
        // everything that the thread writes is temporary until it is complete.
        Ok(_) = cancel.wait_for(|stop| *stop) => {
            return Err(CommandError::message(Kind::Interrupted, "the appliance's build was stopped"));
        }
    };
    let appliance = built.map_err(|panic| CommandError::new(Kind::Build, panic))??;
    ctx.say(format!(
        "the appliance {} is made ({} s)",
        &appliance.digest()[..12.min(appliance.digest().len())],
        started.elapsed().as_secs()
    ));
    Ok(appliance)
}

/// A view of the appliance's build, which reports it as events of the run.
struct ApplianceView {
    ctx: RunContext,
    last_tenth: Option<(Phase, u64)>,
}

impl Events for ApplianceView {
    fn event(&mut self, event: ApplianceEvent<'_>) {
        match event {
            ApplianceEvent::Waiting { lock } => self
                .ctx
                .say(format!("another vbuild makes an appliance; waiting for {}", lock.display())),
            ApplianceEvent::Begin(phase) => {
                self.last_tenth = None;
                self.ctx.say(match phase {
                    Phase::Indices => "appliance: package indices",
                    Phase::Packages => "appliance: packages",
                    Phase::Unpack => "appliance: unpack",
                    Phase::Image => "appliance: write the image",
                    Phase::Configure => "appliance: configure in a microVM",
                });
            }
            ApplianceEvent::Download(phase, progress) => {
                let tenth = progress.bytes * 10 / progress.total_bytes.max(1);
                if phase == Phase::Packages && self.last_tenth != Some((phase, tenth)) {
                    self.last_tenth = Some((phase, tenth));
                    self.ctx.say(format!(
                        "appliance: {} of {} MiB of packages",
                        progress.bytes >> 20,
                        progress.total_bytes >> 20
                    ));
                }
            }
            ApplianceEvent::Unpacked { .. } => {}
            ApplianceEvent::Step { number, total, name } => {
                self.ctx.observer.event(&Event::StepStarted {
                    kind: engine::events::StepKind::Other,
                    title: format!("appliance: configure {name} ({number} of {total})"),
                });
            }
            ApplianceEvent::Output(line) => self.ctx.observer.event(&Event::OutputLine {
                stream: engine::events::OutputStream::Stdout,
                line: line.to_owned(),
            }),
            ApplianceEvent::Warning(text) => self.ctx.warn(text),
        }
    }
}

/// A first stage that configures an image in a machine of the run's backend.
struct MicrovmStage {
    backend: Arc<dyn machine::Backend>,
    architecture: MachineArchitecture,
    vcpus: u8,
    run_dir: PathBuf,
    verbose_console: bool,
    handle: Handle,
}

impl FirstStage for MicrovmStage {
    fn run(
        &self,
        spec: &FirstStageSpec,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<i32, Box<dyn std::error::Error + Send + Sync>> {
        self.handle.block_on(self.configure(spec, output)).map_err(|error| {
            let tail = error.console_tail().unwrap_or("").trim().to_owned();
            if tail.is_empty() { error.into() } else { format!("{error}\n{tail}").into() }
        })
    }
}

impl MicrovmStage {
    fn machine(&self, spec: &FirstStageSpec) -> Result<MachineSpec, SessionError> {
        let nobody: OnGuestConnect = Arc::new(|_| ConnectDecision::Refuse);
        Ok(MachineSpec {
            architecture: self.architecture,
            name: "appliance".into(),
            vcpus: self.vcpus,
            memory_mib: spec.memory_mib,
            kernel: spec.kernel.clone(),
            initrd: spec.initrd.clone(),
            cmdline: Vec::new(),
            drives: vec![Drive {
                serial: DriveSerial::new(engine::ROOT_SERIAL)
                    .map_err(machine::MachineError::from)?,
                path: spec.root_image.clone(),
                format: DriveFormat::Raw,
                below: Vec::new(),
                read_only: false,
                durable: false,
                block_size: BlockSize::B512,
            }],
            on_guest_connect: nobody,
            verbose_console: self.verbose_console,
            start: machine::Start::Boot,
            run_dir: self.run_dir.clone(),
        })
    }

    async fn configure(
        &self,
        spec: &FirstStageSpec,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<i32, SessionError> {
        let machine = self.machine(spec)?;
        let session =
            session::boot(self.backend.as_ref(), machine, &BootOptions::default()).await?;
        mount_image(&session).await?;
        let mut child = session
            .command([&spec.script])
            .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C"), ("HOME", "/root")])
            .chroot(IMAGE.to_owned())
            .merge_stderr()
            .timeout(spec.timeout)
            // Syncs are not needed: a clean shutdown writes everything back before the image is
            // used.
            .ignore_sync(true)
            .spawn()
            .await?;
        let status = loop {
            match child.next().await? {
                ChildEvent::Output(_, bytes) => output(&bytes),
                ChildEvent::Exited(exited) => break exited.status,
            }
        };
        session.shutdown(true).await?;
        Ok(match status {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
            ExitStatus::TimedOut => 124,
        })
    }
}

async fn mount_image(session: &Session) -> Result<(), SessionError> {
    let devices = session.block_devices().await?;
    let device = devices
        .iter()
        .find(|device| device.serial == engine::ROOT_SERIAL)
        .map_or("/dev/vda", |device| device.path.as_str());
    let mounts = [
        (device, "", "ext4", vec!["noatime", "nobarrier"]),
        ("proc", "/proc", "proc", vec![]),
        ("sysfs", "/sys", "sysfs", vec![]),
        ("/dev", "/dev", "", vec!["rbind"]),
        ("tmpfs", "/run", "tmpfs", vec!["mode=755"]),
        ("tmpfs", "/tmp", "tmpfs", vec!["mode=1777"]),
    ];
    for (source, place, fstype, options) in mounts {
        session
            .mount(MountSpec {
                source: source.into(),
                target: format!("{IMAGE}{place}"),
                fstype: fstype.into(),
                options: options.into_iter().map(String::from).collect(),
            })
            .await?;
    }
    Ok(())
}
