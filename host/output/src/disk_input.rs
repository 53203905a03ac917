//! The input of a disk format: what the reader sends it, and the error that ends all writers.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, sync_channel},
    },
};

use crate::{BlockSource, OutputError, Progress, Result, progress::Event, source::Stride};

/// The first error of a run; later ones are consequences.
#[derive(Default)]
pub(crate) struct FirstError(Mutex<Option<OutputError>>);

impl FirstError {
    pub(crate) fn set(&self, error: OutputError) {
        if let Ok(mut slot) = self.0.lock() {
            slot.get_or_insert(error);
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.lock().is_ok_and(|slot| slot.is_some())
    }

    pub(crate) fn take(self) -> Option<OutputError> {
        self.0.into_inner().ok().flatten()
    }
}

/// The input of a disk format.
pub(crate) struct DiskInput<'a> {
    /// The disk, for formats that need random access.
    pub(crate) source: &'a dyn BlockSource,
    pub(crate) strides: Receiver<Arc<Stride>>,
    pub(crate) first_error: &'a FirstError,
    pub(crate) progress: &'a dyn Progress,
    /// The path of the output, for progress.
    pub(crate) path: &'a Path,
}

impl DiskInput<'_> {
    /// Size of the disk.
    pub(crate) fn len(&self) -> u64 {
        self.source.len()
    }

    /// The next stride that is not all zeros. If the reader failed, this is an error and not an
    /// end.
    pub(crate) fn next_stride(&mut self) -> Result<Option<Arc<Stride>>> {
        self.check_cancelled()?;
        match self.strides.recv() {
            Ok(stride) => {
                self.advanced(stride.offset);
                Ok(Some(stride))
            }
            Err(_) if self.first_error.is_set() => Err(OutputError::Cancelled),
            Err(_) => {
                self.advanced(self.source.len());
                Ok(None)
            }
        }
    }

    /// Declares that this format reads the source itself, so that the reader does not wait for it.
    pub(crate) fn decline_strides(&mut self) {
        self.strides = sync_channel(0).1;
    }

    /// Reports the progress of a format that reads the source itself.
    pub(crate) fn advanced(&self, done: u64) {
        self.progress.event(Event::Advanced { path: self.path, done });
    }

    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.progress.cancelled() { Err(OutputError::Cancelled) } else { Ok(()) }
    }
}
