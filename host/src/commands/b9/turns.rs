//! Orders the output of artifacts that are built in parallel: one artifact after another, in the
//! order of the files, as if they had been built in that order.
//!
//! The output of the first unfinished artifact is passed on at once. That of the others is kept
//! until it is their turn.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use b9::LogLevel;
use engine::events::{Event, Observer};

use super::narration::Narrator;

/// The maximum number of output lines that are kept of an artifact: more than a build of a whole
/// distribution writes.
const KEPT_LINES_MAX: usize = 200_000;
/// The maximum size of the output lines that are kept of an artifact, in bytes.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// The turns of the artifacts of a run.
pub(super) struct Turns {
    narrator: Arc<Narrator>,
    state: Mutex<State>,
}

struct State {
    /// The artifact whose events are passed on.
    current: usize,
    /// Whether an artifact has failed in its turn. The error at the end is about it, so the
    /// narrator writes later events but does not forward them.
    failed: bool,
    artifacts: Vec<Kept>,
}

/// The output of an artifact before its turn, and its outcome.
#[derive(Default)]
struct Kept {
    said: VecDeque<Said>,
    lines: usize,
    bytes: usize,
    /// The number of lines that were dropped because of the limits.
    lost: u64,
    done: bool,
    failed: bool,
}

enum Said {
    Event(Event),
    Line(LogLevel, String),
}

impl Turns {
    /// Creates the turns of `count` artifacts.
    pub(super) fn new(narrator: Arc<Narrator>, count: usize) -> Arc<Self> {
        let artifacts = std::iter::repeat_with(Kept::default).take(count).collect();
        Arc::new(Self {
            narrator,
            state: Mutex::new(State { current: 0, failed: false, artifacts }),
        })
    }

    /// Returns the observer of one artifact.
    pub(super) fn voice(self: &Arc<Self>, number: usize) -> Voice {
        Voice { turns: Arc::clone(self), number }
    }

    /// Marks an artifact as done, and passes on the output of those whose turn it is now.
    pub(super) fn done(&self, number: usize, well: bool) {
        let mut state = self.lock();
        if let Some(kept) = state.artifacts.get_mut(number) {
            (kept.done, kept.failed) = (true, !well);
        }
        loop {
            let current = state.current;
            let Some(kept) = state.artifacts.get_mut(current) else { break };
            let (said, lost) = (std::mem::take(&mut kept.said), std::mem::take(&mut kept.lost));
            let (done, failed) = (kept.done, kept.failed);
            said.into_iter().for_each(|said| self.tell(&state, &said));
            if lost > 0 {
                let text = format!("{lost} lines of output were too many to be kept");
                self.tell(&state, &Said::Event(Event::Warning { text }));
            }
            if !done {
                break;
            }
            state.failed |= failed;
            state.current += 1;
        }
    }

    /// Marks all artifacts as done, so that everything that is still kept is passed on.
    pub(super) fn end(&self) {
        let count = self.lock().artifacts.len();
        for number in 0..count {
            let (done, well) = {
                let kept = &self.lock().artifacts[number];
                (kept.done, !kept.failed)
            };
            self.done(number, !done || well);
        }
    }

    fn say(&self, number: usize, said: Said) {
        let mut state = self.lock();
        if number == state.current {
            // The lock is held, so that the output of another artifact cannot come between.
            self.tell(&state, &said);
        } else if let Some(kept) = state.artifacts.get_mut(number) {
            kept.keep(said);
        }
    }

    fn tell(&self, state: &State, said: &Said) {
        match said {
            Said::Event(event) if state.failed => self.narrator.note(event),
            Said::Event(event) => self.narrator.event(event),
            Said::Line(level, text) => self.narrator.say(*level, text),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn keep(&mut self, said: Said) {
        match &said {
            // Progress is of no use later.
            Said::Event(Event::OutputProgress { .. }) => return,
            Said::Event(Event::OutputLine { line, .. }) => {
                if self.lines >= KEPT_LINES_MAX || self.bytes + line.len() > KEPT_BYTES_MAX {
                    self.lost += 1;
                    return;
                }
                self.lines += 1;
                self.bytes += line.len();
            }
            // The plan's steps and the network connections limit the number of other events.
            _ => {}
        }
        self.said.push_back(said);
    }
}

/// The observer of one artifact, which passes its output to the turns.
pub(super) struct Voice {
    turns: Arc<Turns>,
    number: usize,
}

impl Voice {
    /// Writes a line at a level, as soon as it is this artifact's turn.
    pub(super) fn say(&self, level: LogLevel, text: &str) {
        self.turns.say(self.number, Said::Line(level, text.to_owned()));
    }
}

impl Observer for Voice {
    fn event(&self, event: &Event) {
        self.turns.say(self.number, Said::Event(event.clone()));
    }
}

#[cfg(test)]
mod tests {
    use engine::events::OutputStream;

    use super::*;
    use crate::ui::Console;

    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);

    impl Observer for Heard {
        fn event(&self, event: &Event) {
            let text = match event {
                Event::OutputLine { line, .. } => line.clone(),
                Event::Warning { text } => text.clone(),
                other => format!("{other:?}"),
            };
            self.0.lock().unwrap().push(text);
        }
    }

    fn line(text: &str) -> Event {
        Event::OutputLine { stream: OutputStream::Stdout, line: text.into() }
    }

    fn turns(count: usize) -> (Arc<Turns>, Arc<Heard>) {
        let heard = Arc::new(Heard::default());
        let console =
            Console { stdout_is_terminal: false, stderr_is_terminal: false, colours: false };
        let narrator = Narrator::new(console, None, None, heard.clone()).unwrap();
        (Turns::new(Arc::new(narrator), count), heard)
    }

    #[test]
    fn artifacts_are_heard_one_after_another() {
        let (turns, heard) = turns(3);
        let [one, two, three] = [0, 1, 2].map(|number| turns.voice(number));
        two.event(&line("2a"));
        one.event(&line("1a"));
        three.event(&line("3a"));
        turns.done(1, true);
        one.event(&line("1b"));
        assert_eq!(*heard.0.lock().unwrap(), ["1a", "1b"]);
        turns.done(0, true);
        three.event(&line("3b"));
        turns.done(2, true);
        assert_eq!(*heard.0.lock().unwrap(), ["1a", "1b", "2a", "3a", "3b"]);
    }

    /// What is told of a failure is not about those behind it, which are in the log.
    #[test]
    fn behind_a_failure_nothing_is_shown() {
        let (turns, heard) = turns(3);
        let [one, three] = [0, 2].map(|number| turns.voice(number));
        three.event(&line("3"));
        turns.done(2, true);
        one.event(&line("1"));
        turns.done(0, false);
        turns.end();
        assert_eq!(*heard.0.lock().unwrap(), ["1"]);
    }

    #[test]
    fn what_is_kept_has_a_limit() {
        let (turns, heard) = turns(2);
        let two = turns.voice(1);
        let long = "x".repeat(1 << 20);
        for _ in 0..40 {
            two.event(&line(&long));
        }
        turns.done(0, true);
        let heard = heard.0.lock().unwrap();
        assert_eq!(heard.len(), 33);
        assert_eq!(heard[32], "8 lines of output were too many to be kept");
    }
}
