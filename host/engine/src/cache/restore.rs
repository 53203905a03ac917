//! Restores disks from a record of the store. A record may come from a shared cache:
//! before anything is written, its disks are compared with those of the plan.

use std::path::PathBuf;

use plan::{Disk, DiskName, DiskSize, Plan};
use store::{DiskState, Lease, StageRecord, StoreError};

use crate::{
    EngineError, State,
    disks::{Disks, disk_bytes},
};

/// How the disks of a record differ from those of the plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Mismatch {
    /// A disk of the record that the plan does not have.
    #[error("its record has the disk `{0}`, which the build does not have")]
    Unknown(DiskName),
    /// A disk of the plan that the record does not have.
    #[error("its record lacks the disk `{0}`")]
    Missing(DiskName),
    /// A disk of another size.
    #[error("its record has {found} bytes for the disk `{disk}`, the build has {wanted}")]
    Size {
        /// The disk.
        disk: DiskName,
        /// The size of the disk in the record, in bytes.
        found: u64,
        /// The size of the disk in the plan, in bytes.
        wanted: u64,
    },
    /// The disk's size is a fact of the record, and none that a disk can have.
    #[error("the size of the disk `{disk}` is not known")]
    UnknownSize {
        /// The disk.
        disk: DiskName,
        /// What is wrong with the fact, if it is there.
        #[source]
        source: Option<Box<EngineError>>,
    },
}

/// A disk to restore.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) name: DiskName,
    pub(crate) path: PathBuf,
    pub(crate) disk: DiskState,
}

/// The disks that a record restores, each to its raw file in the build directory.
///
/// # Errors
/// When names or sizes are not those of the plan.
pub(crate) fn jobs(
    plan: &Plan,
    state: &State,
    record: &StageRecord,
    files: &Disks,
) -> Result<Vec<Job>, Mismatch> {
    for disk in &plan.disks {
        // The fact may be set by the stage itself, when its machine has no such disk yet.
        if matches!(disk.size, DiskSize::Bytes(_)) && !record.disks.contains_key(&disk.name) {
            return Err(Mismatch::Missing(disk.name.clone()));
        }
    }
    let job = |(name, found): (&DiskName, &DiskState)| {
        let disk: Option<&Disk> = plan.disks.iter().find(|disk| disk.name == *name);
        let disk = disk.ok_or_else(|| Mismatch::Unknown(name.clone()))?;
        let unknown = |source| Mismatch::UnknownSize { disk: name.clone(), source };
        let wanted = disk_bytes(&disk.size, state).map_err(|e| unknown(Some(Box::new(e))))?;
        let wanted = wanted.ok_or_else(|| unknown(None))?;
        if found.bytes != wanted {
            let (disk, found) = (name.clone(), found.bytes);
            return Err(Mismatch::Size { disk, found, wanted });
        }
        Ok(Job { name: name.clone(), path: files.raw(name), disk: found.clone() })
    };
    record.disks.iter().map(job).collect()
}

/// Restores disks, all at once. Blocks.
///
/// # Errors
/// The first failure; files of other disks may then exist.
pub(crate) fn run(lease: &Lease, jobs: &[Job]) -> Result<(), StoreError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            jobs.iter().map(|job| scope.spawn(|| lease.restore(&job.disk, &job.path))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(restored) => restored,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

#[cfg(test)]
mod tests;
