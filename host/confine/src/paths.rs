//! Landlock: restricts the paths that a process may open.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    Scope,
};
use serde::{Deserialize, Serialize};

use crate::{ConfineError, Landlock};

/// The newest ABI version whose rights are requested; older kernels enforce those that they
/// support.
const NEWEST: ABI = ABI::V6;

/// The paths that a process may open. Each is a file, or a directory with everything below it. All
/// other paths are denied, and so are all changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// May be read.
    pub read: Vec<PathBuf>,
    /// May be read and executed: programs, their libraries and modules.
    pub run: Vec<PathBuf>,
    /// Devices that may be read, written and controlled.
    pub devices: Vec<PathBuf>,
}

/// Denies all paths but these, all TCP ports, abstract sockets of other processes, and signals to
/// other processes. A kernel with less Landlock support enforces less, and one without it nothing;
/// the result reports that.
///
/// # Errors
/// Fails if one of the paths cannot be opened.
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
    // If the kernel does not accept the ruleset, this part is missing, which is reported.
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
