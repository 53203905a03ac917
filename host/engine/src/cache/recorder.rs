//! Records the log of each stage and the times of its scripts, and passes all events on to the
//! observer of the build.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use checked::Printable;
use store::{Ran, RanKind};

use super::policy::LOG_MAX_BYTES;
use crate::events::{Event, Observer, SharedObserver, StepKind};

/// An observer that records the output of scripts and passes every event on.
pub(crate) struct StageRecorder {
    inner: SharedObserver,
    recorded: Mutex<Recorded>,
}

#[derive(Default)]
struct Recorded {
    text: String,
    ran: Vec<Ran>,
}

impl StageRecorder {
    pub(crate) fn new(inner: SharedObserver) -> Arc<Self> {
        Arc::new(Self { inner, recorded: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the log since the last call.
    pub(crate) fn take_log(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().text).into_bytes()
    }

    /// Takes the scripts and steps that ran since the last call, with their times by the guest's
    /// clock, which is `ahead_ms` ahead of the host's.
    pub(crate) fn take_ran(&self, ahead_ms: i64) -> Vec<Ran> {
        let ran = std::mem::take(&mut self.lock().ran);
        let shifted = |at: u64| at.saturating_add_signed(ahead_ms);
        let shift = |ran: Ran| Ran {
            started_ms: shifted(ran.started_ms),
            ended_ms: shifted(ran.ended_ms),
            ..ran
        };
        ran.into_iter().map(shift).collect()
    }

    fn began(&self, kind: RanKind, name: String, origin: Option<String>) {
        let now = now_ms();
        let (name, origin) = (name.into(), origin.map(Printable::from));
        let ran = Ran { kind, name, origin, started_ms: now, ended_ms: now };
        self.lock().ran.push(ran);
    }

    /// Sets the end of the last script or step, since only one runs at a time.
    fn ended(&self) {
        if let Some(last) = self.lock().ran.last_mut() {
            last.ended_ms = now_ms();
        }
    }

    fn put(&self, line: &str) {
        let text = &mut self.lock().text;
        if text.len() + line.len() < LOG_MAX_BYTES {
            text.push_str(line);
            text.push('\n');
        }
    }
}

impl Observer for StageRecorder {
    fn event(&self, event: &Event) {
        match event {
            Event::OutputLine { line, .. } => self.put(line),
            Event::ScriptStarted { phase, script, origin, .. } => {
                self.put(&format!("== {phase}/{script}"));
                self.began(RanKind::Script, format!("{phase}/{script}"), origin.clone());
            }
            Event::StepStarted { kind, title } => {
                self.put(&format!("== {title}"));
                let copies = *kind == StepKind::TreeCopy;
                let kind = if copies { RanKind::TreeCopy } else { RanKind::Step };
                self.began(kind, title.clone(), None);
            }
            Event::ScriptFinished { .. } | Event::StepFinished { .. } => self.ended(),
            _ => {}
        }
        self.inner.event(event);
    }
}

/// Returns the milliseconds since 1970 by the host's clock.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
