//! QEMU's confinement without a machine: what holds here, and what a program in QEMU's
//! place can do.

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

/// Such a program writes to no file.
const FILE_BYTES_MAX: u64 = 0;

impl Qemu {
    /// What confines QEMU on this host: asked of one that starts confined, tells its
    /// version, and ends. So it is known, too, that it can start like that.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn confinement(&self) -> Result<Confinement, MachineError> {
        let (process, exit) = run(self, vec!["--version".into()]).await?;
        match (process.confinement, &exit.status) {
            (Some(held), Ok(status)) if status.success() => Ok(held),
            _ => Err(failed(halt::ending(&exit))),
        }
    }
}

/// Has a program in QEMU's place try something: `program` calls [`crate::exec_child`] when
/// its first argument is [`crate::CHILD_VERB`], and [`confine::trial::in_place`] when that is
/// [`TRIAL_VERB`].
///
/// # Errors
/// When it cannot be started.
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
        // It was there, and then it was not.
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
