//! The log of each stage, written down beside what the user sees.

use std::sync::{Arc, Mutex, PoisonError};

use crate::events::{Event, Observer, SharedObserver};

/// The longest log of a stage that is kept; what comes behind is dropped.
const LOG_MAX_BYTES: usize = 8 << 20;

/// Passes events on and keeps what scripts say.
pub(crate) struct Tape {
    inner: SharedObserver,
    text: Mutex<String>,
}

impl Tape {
    pub(crate) fn new(inner: SharedObserver) -> Arc<Self> {
        Arc::new(Self { inner, text: Mutex::default() })
    }

    /// What was said since this was asked before.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.text.lock().unwrap_or_else(PoisonError::into_inner)).into_bytes()
    }

    fn put(&self, line: &str) {
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        if text.len() + line.len() < LOG_MAX_BYTES {
            text.push_str(line);
            text.push('\n');
        }
    }
}

impl Observer for Tape {
    fn event(&self, event: &Event) {
        match event {
            Event::OutputLine { line, .. } => self.put(line),
            Event::ScriptStarted { phase, script, .. } => self.put(&format!("== {phase}/{script}")),
            Event::StepStarted { title } => self.put(&format!("== {title}")),
            _ => {}
        }
        self.inner.event(event);
    }
}
