//! Converts the progress events of the `output` crate to events of a build.

use std::{collections::HashMap, path::PathBuf, sync::Mutex, time::Instant};

use engine::events::{Event, SharedObserver};

/// Passes the progress of outputs on to the observer of a build.
pub(crate) struct OutputProgress {
    observer: SharedObserver,
    totals: Mutex<HashMap<PathBuf, (u64, Instant)>>,
}

impl std::fmt::Debug for OutputProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutputProgress").finish_non_exhaustive()
    }
}

impl OutputProgress {
    /// Creates the progress for one call of the `output` crate.
    pub(crate) fn new(observer: SharedObserver) -> Self {
        Self { observer, totals: Mutex::default() }
    }
}

impl output::Progress for OutputProgress {
    fn event(&self, event: output::Event<'_>) {
        let mut totals = self.totals.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            output::Event::Started { path, total, .. } => {
                totals.insert(path.to_owned(), (total.unwrap_or(0), Instant::now()));
            }
            output::Event::Advanced { path, done } => {
                let total = totals.get(path).map_or(0, |(total, _)| *total);
                self.observer.event(&Event::OutputProgress { path: path.to_owned(), done, total });
            }
            output::Event::Lost { format, path, what, count, first } => {
                let files = if count == 1 { "one file" } else { "files" };
                let number = if count == 1 { String::new() } else { format!("{count} ") };
                self.observer.event(&Event::Warning {
                    text: format!(
                        "{}: {format} cannot hold {what}: {number}{files}, the first is `{first}`",
                        path.display()
                    ),
                });
            }
            output::Event::Finished { path, bytes } => {
                let (total, started) = totals.get(path).copied().unwrap_or((0, Instant::now()));
                self.observer.event(&Event::OutputWritten {
                    path: path.to_owned(),
                    bytes,
                    virtual_bytes: (total > 0).then_some(total),
                    elapsed: started.elapsed(),
                });
            }
            _ => {}
        }
    }
}
