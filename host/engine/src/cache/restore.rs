//! Restores disks from a record of the store. A record may come from a shared cache:
//! before anything is written, its disks are compared with those of the plan.

use std::path::PathBuf;

use plan::{Disk, DiskName, DiskSize, Plan};
use store::{DiskState, Lease, StageRecord, StoreError};

use crate::{
    EngineError, State,
    disks::{Disks, disk_bytes},
};

/// A difference between the disks of a record and those of the plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Mismatch {
    /// A disk of the record that the plan does not have.
    #[error("its record has the disk `{0}`, which the build does not have")]
    Unknown(DiskName),
    /// A disk of the plan that the record does not have.
    #[error("its record lacks the disk `{0}`")]
    Missing(DiskName),
    /// A disk that has another size in the record than in the plan.
    #[error("its record has {found} bytes for the disk `{disk}`, the build has {wanted}")]
    Size {
        /// The name of the disk.
        disk: DiskName,
        /// The size of the disk in the record, in bytes.
        found: u64,
        /// The size of the disk in the plan, in bytes.
        wanted: u64,
    },
    /// A disk whose size is a fact that the record does not have, or that is not a valid size.
    #[error("the size of the disk `{disk}` is not known")]
    UnknownSize {
        /// The name of the disk.
        disk: DiskName,
        /// The error of the fact; `None` if the record does not have it.
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

/// Returns the disks to restore from a record, each to its raw file in the build directory.
///
/// # Errors
/// Fails if the names or sizes of the disks are not those of the plan.
pub(crate) fn jobs(
    plan: &Plan,
    state: &State,
    record: &StageRecord,
    files: &Disks,
) -> Result<Vec<Job>, Mismatch> {
    for disk in &plan.disks {
        // A disk whose size is a fact may be missing: the stage itself may have set the fact, while
        // its machine did not have the disk yet.
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

/// Restores all disks in parallel. Blocks.
///
/// # Errors
/// Returns the first failure. Files of other disks may then exist.
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
