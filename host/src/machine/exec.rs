//! Runs one command in a fresh appliance, and passes its output and exit status through.

use std::{sync::Arc, time::Duration};

use machine::{BlockSize, ConnectDecision, Drive, DriveFormat, DriveSerial, MachineSpec};
use session::{BootOptions, Session};

use super::{
    appliance, backend, build_dir::BuildDir, ca, drive::HeldDrive, network::Network, shell,
};
use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
};

/// Time limit for the shutdown of the machine after the command.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// The directory on which the helper drive is mounted, as in a build.
const HELPER: &str = "/helper";

/// Runs a command in a machine, and returns the exit status to pass on.
///
/// # Errors
/// Fails if vbuild itself fails; a command that fails is not an error.
pub(crate) async fn exec(
    settings: &Settings,
    argv: &[String],
    ctx: &RunContext,
) -> Result<u8, CommandError> {
    let network = Network::new(settings, ctx, None)?;
    let held = HeldDrive::of(settings)?;
    let build_dir = BuildDir::of(settings)?;
    let backend = backend::choose(settings, ctx).await?;
    let files = appliance::find_or_build(settings, &backend, &build_dir, ctx).await?;
    let certificates = ca::certificates(settings)?;
    let mut drives = vec![drive(engine::ROOT_SERIAL, files.root.clone(), DriveFormat::Raw, true)?];
    if let Some(held) = &held {
        drives.push(drive(engine::HELPER_SERIAL, held.path.clone(), held.format, false)?);
    }
    let spec = MachineSpec {
        architecture: settings.architecture,
        name: "exec".into(),
        vcpus: settings.vcpus,
        memory_mib: settings.memory_mib,
        kernel: files.kernel,
        initrd: files.initrd,
        cmdline: vec![format!("vbuild.root={}", engine::ROOT_SERIAL)],
        drives,
        on_guest_connect: network.as_ref().map_or_else(
            || Arc::new(|_| ConnectDecision::Refuse) as _,
            engine::Network::on_guest_connect,
        ),
        verbose_console: settings.verbose_console,
        start: machine::Start::Boot,
        run_dir: build_dir.path().to_owned(),
    };
    let mut cancel = ctx.cancel.clone();
    let stopped = || CommandError::message(Kind::Interrupted, "the command was stopped");
    let (warm, options) = (settings.warm_machines(), BootOptions::default());
    let session = tokio::select! {
        booted = session::start(warm.as_ref(), backend.backend.as_ref(), spec, &options) => {
            booted?
        }
        Ok(_) = cancel.wait_for(|stop| *stop) => return Err(stopped()),
    };
    let outcome = tokio::select! {
        outcome = run(&session, held.is_some(), network.is_some(), certificates.as_deref(), argv) => outcome,
        Ok(_) = cancel.wait_for(|stop| *stop) => Err(stopped()),
    };
    // Without a drive, the guest has nothing that is worth flushing.
    let down = tokio::time::timeout(SHUTDOWN_GRACE, session.shutdown(held.is_some())).await;
    let status = outcome?;
    match down {
        Ok(Err(error)) if held.is_some() => Err(CommandError::from(error)),
        _ => Ok(status),
    }
}

fn drive(
    serial: &str,
    path: std::path::PathBuf,
    format: DriveFormat,
    read_only: bool,
) -> Result<Drive, CommandError> {
    let serial = DriveSerial::new(serial).map_err(|e| CommandError::new(Kind::Exec, e))?;
    let durable = !read_only;
    let (below, block_size) = (Vec::new(), BlockSize::B512);
    Ok(Drive { serial, path, format, below, read_only, durable, block_size })
}

async fn run(
    session: &Session,
    helper: bool,
    network: bool,
    certificates: Option<&[u8]>,
    argv: &[String],
) -> Result<u8, CommandError> {
    if network {
        session.network_up().await?;
    }
    if helper {
        let mounted = engine::mount_drive(session, HELPER).await?;
        mounted.map_err(|reason| {
            CommandError::message(Kind::Usage, format!("the helper drive cannot be used: {reason}"))
        })?;
    }
    let mut env = shell::environment();
    if let Some(bundle) = certificates {
        engine::certificates::install(session, "/", bundle).await?;
        env.extend(engine::certificates::environment());
    }
    let command = session.command(argv).envs(env);
    Ok(shell::exit_code(shell::join(command).await?))
}
