//! The confinement of the processes that a guest can attack: reported as events, and demanded by
//! `--require-confinement`.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use confine::{Confinement, Landlock};
use engine::events::{Event, SharedObserver};
use machine::{Backend, Machine, MachineError, MachineSpec};

use crate::error::{CommandError, Kind};

/// The path of this process's program, which stays valid if its file is replaced or removed.
pub(crate) const SELF: &str = "/proc/self/exe";

/// The hint on what to do about a missing layer.
pub(crate) const REMEDY: &str = "a kernel of 5.13 or newer with landlock among its security modules (the \
                      boot option `lsm=`) grants all layers; without --require-confinement the \
                      other layers are held to be enough";

/// A backend that reports each different confinement of its processes once.
pub(crate) struct Telling {
    backend: std::sync::Arc<dyn Backend>,
    observer: SharedObserver,
    require: bool,
    told: Mutex<Vec<Confinement>>,
}

impl std::fmt::Debug for Telling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telling").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl Telling {
    pub(crate) fn new(
        backend: std::sync::Arc<dyn Backend>,
        observer: SharedObserver,
        require: bool,
    ) -> Self {
        Self { backend, observer, require, told: Mutex::default() }
    }

    fn tell(&self, held: &Confinement) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(held) {
            told.push(held.clone());
            self.observer.event(&event(held));
        }
    }
}

#[async_trait::async_trait]
impl Backend for Telling {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    async fn saving_identity(&self, spec: &MachineSpec) -> Option<String> {
        self.backend.saving_identity(spec).await
    }

    async fn start(&self, spec: MachineSpec) -> Result<Box<dyn Machine>, MachineError> {
        let machine = self.backend.start(spec).await?;
        let held = machine.confinement();
        held.iter().for_each(|held| self.tell(held));
        // `of_machines` has checked processes that were started only for that; this checks the
        // machine itself. Dropping the machine ends it.
        match held.iter().find(|held| !held.lacks().is_empty()) {
            Some(less) if self.require => Err(MachineError::Unavailable {
                what: format!("every layer of the confinement of {}", less.process),
                reason: less.lacks().join(", "),
                hint: Some(REMEDY.to_owned()),
            }),
            _ => Ok(machine),
        }
    }
}

fn event(held: &Confinement) -> Event {
    Event::Confined {
        process: held.process.clone(),
        holds: held.to_string(),
        landlock: match held.landlock {
            Landlock::Held { abi } => Some(abi),
            Landlock::Absent { .. } => None,
        },
        lacks: held.lacks(),
    }
}

/// Checks the confinement of a machine's processes on this host, with processes that are started
/// only for that. They run `program`, or the current program if it is `None`.
///
/// # Errors
/// Fails if a layer is missing, or a process does not start.
pub(crate) async fn of_machines(program: Option<PathBuf>) -> Result<(), CommandError> {
    let asking = move || microvm::confinement(program.as_deref().unwrap_or(Path::new(SELF)));
    let asked = tokio::task::spawn_blocking(asking).await;
    let held = asked.map_err(std::io::Error::other).flatten();
    let held = held.map_err(|error| {
        CommandError::new(Kind::Host, error).context("cannot find out what confines a machine")
    })?;
    demand(&held)
}

/// Checks that no layer is missing, as `--require-confinement` demands.
///
/// # Errors
/// Fails if a layer is missing.
pub(crate) fn demand(held: &[Confinement]) -> Result<(), CommandError> {
    let less = held.iter().find(|held| !held.lacks().is_empty());
    less.map_or(Ok(()), |less| {
        let text = format!("{} would lack {}", less.process, less.lacks().join(", "));
        Err(CommandError::message(Kind::Unconfined, text).hint(REMEDY))
    })
}

#[cfg(test)]
mod tests {
    use confine::SystemCalls;

    use super::*;

    #[test]
    fn a_missing_layer_is_an_error_of_its_own() {
        let held = |landlock| Confinement {
            process: "QEMU".into(),
            landlock,
            system_calls: SystemCalls::Refused,
        };
        let all = held(Landlock::Held { abi: 1 });
        let none = held(Landlock::Absent { reason: "the kernel does not have it".into() });
        assert!(demand(std::slice::from_ref(&all)).is_ok());
        let error = demand(&[all.clone(), none.clone()]).unwrap_err();
        assert_eq!(error.exit_status(), 3);
        let text = error.to_string();
        assert_eq!(text, "QEMU would lack landlock (the kernel does not have it)");
        let Event::Confined { landlock, lacks, .. } = event(&none) else { unreachable!() };
        assert_eq!((landlock, lacks.len()), (None, 1));
        let Event::Confined { landlock, lacks, .. } = event(&all) else { unreachable!() };
        assert_eq!((landlock, lacks.len()), (Some(1), 0));
    }
}
