//! Landlock: the paths that a process may still open.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    Scope,
};
use serde::{Deserialize, Serialize};

use crate::{ConfineError, Landlock};

/// The newest version whose rights are asked for; a kernel grants what it knows.
const NEWEST: ABI = ABI::V6;

/// What a process may open by its path. Each is a file, or a folder with all that
/// lies beneath it; everything else is forbidden, and so is every change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// To be read.
    pub read: Vec<PathBuf>,
    /// To be read and executed: programs, their libraries and modules.
    pub run: Vec<PathBuf>,
    /// Devices to be read, written and controlled.
    pub devices: Vec<PathBuf>,
}

/// Forbids every path but these, every TCP port, abstract sockets of others, and signals
/// to other processes. A kernel that has less of landlock grants less, and
/// one without it nothing: the answer says so.
///
/// # Errors
/// When one of the paths cannot be opened.
pub fn restrict(paths: &Paths) -> Result<Landlock, ConfineError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut rules = Vec::new();
    for (paths, access) in
        [(&paths.read, read), (&paths.run, read | AccessFs::Execute), (&paths.devices, device)]
    {
        for path in paths {
            rules.push(rule(path, access)?);
        }
    }
    // A ruleset that the kernel does not take leaves one layer out, which is told.
    Ok(apply(rules).unwrap_or_else(|cause| Landlock::Absent { reason: cause.to_string() }))
}

fn rule(path: &Path, access: BitFlags<AccessFs>) -> Result<PathBeneath<PathFd>, ConfineError> {
    let fd = PathFd::new(path).map_err(|error| ConfineError::Path {
        path: path.to_owned(),
        source: match error {
            PathFdError::OpenCall { source, .. } => source,
            other => std::io::Error::other(other.to_string()),
        },
    })?;
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    Ok(PathBeneath::new(fd, access))
}

fn apply(rules: Vec<PathBeneath<PathFd>>) -> Result<Landlock, RulesetError> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?;
    let status = ruleset
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(rules.into_iter().map(Ok::<_, RulesetError>))?
        .restrict_self()?;
    Ok(known(status.landlock))
}

fn known(status: LandlockStatus) -> Landlock {
    match status {
        LandlockStatus::NotEnabled => Landlock::Absent {
            reason: "the kernel has it, but it is not enabled at boot".to_owned(),
        },
        LandlockStatus::NotImplemented => {
            Landlock::Absent { reason: "the kernel does not have it".to_owned() }
        }
        LandlockStatus::Available { effective_abi, kernel_abi } => {
            let known = u32::try_from(effective_abi as i32).unwrap_or(0);
            let told = kernel_abi.and_then(|abi| u32::try_from(abi).ok());
            Landlock::Held { abi: told.unwrap_or(known) }
        }
    }
}
