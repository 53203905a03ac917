//! Trees that leave the guest while a build runs: archives wait complete and
//! nameless until the whole build has succeeded; directories (`NAME.d`) are
//! unpacked safely.

use std::{
    io::Read,
    path::Path,
    sync::{Arc, Mutex},
};

use engine::events::SharedObserver;
use output::{Checksum, Pending, PendingTree, Target};
use plan::TreeOutput;

use crate::progress::OutputProgress;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Writes trees and keeps them until they are committed.
#[derive(Clone)]
pub struct Trees {
    observer: SharedObserver,
    checksums: Vec<Checksum>,
    pending: Arc<Mutex<Vec<Pending>>>,
    directories: Arc<Mutex<Vec<PendingTree>>>,
}

impl std::fmt::Debug for Trees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trees").field("pending", &self.pending).finish_non_exhaustive()
    }
}

impl Trees {
    /// For one build.
    #[must_use]
    pub fn new(observer: SharedObserver, checksums: Vec<Checksum>) -> Self {
        Self { observer, checksums, pending: Arc::default(), directories: Arc::default() }
    }

    /// What has been written and waits for its name.
    #[must_use]
    pub fn take(&self) -> Vec<Pending> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Trees {
    /// The directories that have been unpacked and wait for their place.
    #[must_use]
    pub fn take_directories(&self) -> Vec<PendingTree> {
        std::mem::take(
            &mut *self.directories.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

impl engine::TreeSink for Trees {
    fn export(
        &self,
        output: &TreeOutput,
        mut archive: Box<dyn Read + Send>,
    ) -> Result<(), Failure> {
        let format = output::format(&output.format)
            .ok_or_else(|| output::OutputError::InvalidFormat(output.format.clone()))?;
        let target = Target {
            container: output.target.clone(),
            checksums: self.checksums.clone(),
            ..Target::new(format, &output.path)
        };
        let progress = OutputProgress::new(Arc::clone(&self.observer));
        let pending = output::write_trees(&mut archive, &[target], &progress)?;
        self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(pending);
        Ok(())
    }

    fn unpack(&self, directory: &Path, mut archive: Box<dyn Read + Send>) -> Result<(), Failure> {
        let progress = OutputProgress::new(Arc::clone(&self.observer));
        let limits = output::UnpackLimits::default();
        if let Some(tree) = output::unpack_tree(&mut archive, directory, limits, &progress)? {
            self.directories.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(tree);
        }
        Ok(())
    }
}
