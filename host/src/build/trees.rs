//! Trees that the guest sends while a build runs. Archives are complete, but without their final
//! names, until the whole build has succeeded. Directories (`NAME.d`) are unpacked with the checks
//! of [`output::unpack_tree`].

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use engine::events::SharedObserver;
use output::{Pending, PendingTree, Target};
use plan::{Plan, TreeOutput};

use super::{progress::OutputProgress, targets};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Writes the trees of a build, and keeps them until they are committed.
#[derive(Clone)]
pub(crate) struct Trees {
    observer: SharedObserver,
    targets: Vec<Target>,
    pending: Arc<Mutex<Vec<Pending>>>,
    directories: Arc<Mutex<Vec<PendingTree>>>,
    archives: Option<Arc<Archives>>,
}

/// Copies of the archives that were unpacked to directories.
struct Archives {
    directory: PathBuf,
    written: Mutex<Vec<(PathBuf, PathBuf)>>,
}

impl std::fmt::Debug for Trees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trees").field("pending", &self.pending).finish_non_exhaustive()
    }
}

impl Trees {
    /// Creates the sink for the outputs of a plan.
    pub(crate) fn of_plan(observer: SharedObserver, plan: &Plan) -> Self {
        Self {
            observer,
            targets: targets::of_plan(plan),
            pending: Arc::default(),
            directories: Arc::default(),
            archives: None,
        }
    }

    /// Makes this sink keep a copy of each archive that it unpacks; the copies are in `directory`.
    pub(crate) fn with_archives(self, directory: &Path) -> Self {
        let archives = Archives { directory: directory.to_owned(), written: Mutex::default() };
        Self { archives: Some(Arc::new(archives)), ..self }
    }

    /// Returns the directories that were unpacked, each with the copy of its archive.
    pub(crate) fn archives(&self) -> Vec<(PathBuf, PathBuf)> {
        let written = self.archives.iter().flat_map(|archives| {
            archives.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
        });
        written.collect()
    }

    /// Takes the complete archives, which have no final names yet.
    pub(crate) fn take(&self) -> Vec<Pending> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Trees {
    /// Takes the unpacked directories, which are not at their final paths yet.
    pub(crate) fn take_directories(&self) -> Vec<PendingTree> {
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
        let target = self.targets.iter().find(|target| target.path == output.path);
        let target = target.ok_or_else(|| output::unknown_format(&output.format))?;
        let progress = OutputProgress::new(Arc::clone(&self.observer));
        let pending = output::write_trees(&mut archive, std::slice::from_ref(target), &progress)?;
        self.pending.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(pending);
        Ok(())
    }

    fn unpack(&self, directory: &Path, mut archive: Box<dyn Read + Send>) -> Result<(), Failure> {
        let progress = OutputProgress::new(Arc::clone(&self.observer));
        let limits = output::UnpackLimits::default();
        if let Some(archives) = &self.archives {
            archive = Box::new(archives.copy(directory, archive)?);
        }
        if let Some(tree) = output::unpack_tree(&mut archive, directory, limits, &progress)? {
            self.directories.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(tree);
        }
        Ok(())
    }
}

impl Archives {
    /// Returns a reader of `archive` that copies everything it reads to a file.
    fn copy(&self, directory: &Path, archive: Box<dyn Read + Send>) -> io::Result<Copied> {
        let mut written = self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let path = self.directory.join(format!("directory-{}.tar", written.len()));
        let copy = File::create(&path)?;
        written.push((directory.to_owned(), path));
        Ok(Copied { archive, copy })
    }
}

struct Copied {
    archive: Box<dyn Read + Send>,
    copy: File,
}

impl Read for Copied {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read(buffer)?;
        self.copy.write_all(&buffer[..count])?;
        Ok(count)
    }
}
