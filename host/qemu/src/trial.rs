//! Tests QEMU's confinement without a machine: which restrictions apply on this host, and what a
//! program in QEMU's place can do.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use confine::{
    Confinement,
    trial::{Attempt, Outcome, TRIAL_VERB},
};
use machine::MachineError;

use crate::{
    Qemu, QemuAccel,
    console::TAIL_MAX_BYTES,
    halt,
    process::{Exit, Input, Launch, Process},
};

/// The test programs write no file.
const FILE_BYTES_MAX: u64 = 0;

impl Qemu {
    /// The confinement of QEMU on this host, reported by a QEMU that starts confined, prints its
    /// version, and exits. This also checks that it can start this way.
    ///
    /// # Errors
    /// Fails if it cannot.
    pub async fn confinement(&self) -> Result<Confinement, MachineError> {
        let (process, exit) = run(self, vec!["--version".into()]).await?;
        match (process.confinement, &exit.status) {
            (Some(held), Ok(status)) if status.success() => Ok(held),
            _ => Err(failed(halt::ending(&exit))),
        }
    }
}

/// Runs an attempt in QEMU's place: `program` must call [`crate::exec_child`] if its first argument
/// is [`crate::CHILD_VERB`], and [`confine::trial::in_place`] if that is [`TRIAL_VERB`].
///
/// # Errors
/// Fails if it cannot be started.
pub async fn try_out(program: &Path, attempt: &Attempt) -> Result<Outcome, MachineError> {
    let in_place = Qemu {
        program: program.to_owned(),
        helper: PathBuf::from(program),
        accel: QemuAccel::Tcg,
        needs: Arc::default(),
    };
    let text = serde_json::to_string(attempt).map_err(|error| failed(error.to_string()))?;
    let (process, exit) = run(&in_place, vec![TRIAL_VERB.into(), text.into()]).await?;
    match (serde_json::from_str(&process.console.text()), &exit.status) {
        (Ok(outcome), Ok(status)) if status.success() => Ok(outcome),
        // The process had started, and was killed.
        _ if process.confinement.is_some() => Ok(Outcome::Killed(halt::ending(&exit))),
        _ => Err(failed(halt::ending(&exit))),
    }
}

/// Runs a program to its end in QEMU's place.
async fn run(qemu: &Qemu, args: Vec<OsString>) -> Result<(Process, Exit), MachineError> {
    let launch = Launch {
        helper: qemu.helper.clone(),
        program: qemu.program.clone(),
        args,
        descriptors: Vec::new(),
        paths: qemu.paths().await?,
        file_bytes: FILE_BYTES_MAX,
        input: Input::Null,
        console_max_bytes: TAIL_MAX_BYTES,
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    let on_exit = |exit| drop(tell.send(exit));
    let process = Process::start(launch, on_exit).await;
    let process = process.map_err(|error| failed(error.to_string()))?;
    let exit = told.await.map_err(|error| failed(error.to_string()))?;
    Ok((process, exit))
}

fn failed(reason: String) -> MachineError {
    MachineError::Vmm { action: "start confined".to_owned(), reason }
}
