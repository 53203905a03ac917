//! A process that confines itself with the code of machines and devices, and then attempts
//! something forbidden; and its parent's side. Without an attempt it reports to `vbuild doctor`
//! which layers this kernel supports.

use std::{
    io,
    path::Path,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
};

use confine::{
    Confinement,
    trial::{Attempt, Outcome},
};
use machine::ConnectDecision;

use crate::{
    backend::{
        VMM_VERB,
        process::{self, Launch, Launched},
    },
    child_error::{ChildError, io_error},
    control::{Channel, FromVmm, Role, Start, ToVmm},
    nic,
    sandbox::{self, Confined, Kind, Sandbox},
    vhost,
};

/// The process writes no file.
const FILE_BYTES_MAX: u64 = 0;
/// The name of the process in errors.
const WHO: &str = "the process that tries its confinement";

/// Confines itself like the process of this kind of thread, and makes the attempt.
pub(crate) fn serve(
    mode: Sandbox,
    kind: Kind,
    attempt: Option<Attempt>,
    control: &Channel,
) -> Result<ExitCode, ChildError> {
    let Confined { lists, landlock } = sandbox::confine_process(mode, FILE_BYTES_MAX)?;
    let (begin, begun) = mpsc::sync_channel::<()>(1);
    let (tell, told) = mpsc::sync_channel(1);
    let own = lists.clone();
    let whole_process = kind.is_of_whole_process();
    thread::Builder::new()
        .name("trial".to_owned())
        .spawn(move || {
            if !whole_process {
                own.apply(kind);
            }
            if begun.recv().is_ok()
                && let Some(attempt) = attempt
            {
                // The main thread waits for this.
                let _ = tell.send(attempt.carry_out().err().map(|error| error.to_string()));
            }
        })
        .map_err(io_error("start a thread"))?;
    if whole_process {
        lists.apply_to_all(kind);
    } else {
        lists.apply(Kind::Main);
    }
    // If the parent is gone, the result cannot be reported; here and below.
    let _ = control.send(&FromVmm::Started { landlock }, &[]);
    let _ = begin.send(());
    if let Ok(error) = told.recv() {
        let _ = control.send(&FromVmm::Tried { error }, &[]);
    }
    Ok(ExitCode::SUCCESS)
}

/// A kind of thread that handles guest data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfinedThread(Kind);

impl ConfinedThread {
    /// All kinds of confined threads.
    pub fn all() -> impl Iterator<Item = Self> {
        sandbox::KINDS.iter().copied().map(Self)
    }
}

/// Makes an attempt in a confined process. `program` must call [`crate::vmm_child`] if its first
/// argument is [`VMM_VERB`].
///
/// # Errors
/// Fails if the process cannot be started.
pub fn try_out(program: &Path, thread: ConfinedThread, attempt: Attempt) -> io::Result<Outcome> {
    let Launched { control, mut child, .. } = start(program, thread.0, Some(attempt))?;
    let answer = control.receive::<FromVmm>();
    let status = child.wait()?;
    Ok(match answer {
        Ok(Some((FromVmm::Tried { error: None }, _))) => Outcome::Worked,
        Ok(Some((FromVmm::Tried { error: Some(reason) }, _))) => Outcome::Refused(reason),
        _ => Outcome::Killed(process::describe(WHO, status, "")),
    })
}

/// The confinement of the VMM and its siblings on this kernel, as reported by processes that have
/// just confined themselves.
///
/// # Errors
/// Fails if they cannot; then no machine could start either.
pub fn confinement(program: &Path) -> io::Result<Vec<Confinement>> {
    let ask = |(name, kind): (&str, Kind)| {
        let Launched { mut child, landlock, .. } = start(program, kind, None)?;
        // It exits by itself, as it has no work.
        child.wait()?;
        let system_calls = Sandbox::Enforce.into();
        Ok(Confinement { process: name.to_owned(), landlock, system_calls })
    };
    [("VMM", Kind::Main), (vhost::NAME, Kind::Vhost), (nic::NAME, Kind::Nic)]
        .into_iter()
        .map(ask)
        .collect()
}

fn start(program: &Path, kind: Kind, attempt: Option<Attempt>) -> io::Result<Launched> {
    let launch = Launch {
        program,
        arguments: &[VMM_VERB.into()],
        name: "trial",
        shown_as: "vbuild-trial",
        who: WHO,
        on_guest_connect: Arc::new(|_| ConnectDecision::Refuse),
        console: None,
    };
    let role = Role::Trial { kind, attempt };
    process::launch(launch, |control, _| {
        control.send(&ToVmm::Start(Start::new(Sandbox::Enforce, role)), &[])
    })
    .map_err(io::Error::other)
}
