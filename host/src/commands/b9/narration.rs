//! Writes the messages of b9c: lines with a level and the time in UTC. Standard output shows those
//! of the user's level and above; the log file contains all.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use b9::LogLevel;
use checked::Printable;
use engine::events::{Event, Observer, OutputStream, SharedObserver};

use super::configuration::Configuration;
use crate::{
    build::runtime,
    commands::context::ProcessContext,
    error::{CommandError, Kind},
    run_context::RunContext,
    ui::{Console, Utc},
};

/// An observer that writes events as messages of b9c, and forwards them.
pub(super) struct Narrator {
    console: Console,
    /// The lowest level that is shown; `None` shows nothing.
    level: Option<LogLevel>,
    log: Option<Mutex<File>>,
    next: SharedObserver,
}

impl Narrator {
    /// Creates a narrator, and opens its log.
    ///
    /// # Errors
    /// Fails if the log cannot be opened; its directory must exist.
    pub(super) fn new(
        console: Console,
        level: Option<LogLevel>,
        log: Option<&Path>,
        next: SharedObserver,
    ) -> Result<Self, CommandError> {
        let open = |path: &Path| {
            let file = File::options().append(true).create(true).open(path).map_err(|error| {
                CommandError::new(Kind::Usage, error)
                    .context(format!("cannot write the log `{}`", path.display()))
            })?;
            Ok::<_, CommandError>(Mutex::new(file))
        };
        Ok(Self { console, level, log: log.map(open).transpose()?, next })
    }

    /// Writes each line of a text at a level.
    pub(super) fn say(&self, level: LogLevel, text: &str) {
        let time = Utc::from(SystemTime::now()).time_of_day();
        let lines = text
            .lines()
            .map(|line| format!("[{}] {time} - {}\n", name(level), Printable::output_line(line)));
        let lines: String = lines.collect();
        if self.level.is_some_and(|least| rank(level) >= rank(least)) {
            // As for the log, a reader that has gone away must not end a build.
            let _ = self.console.print(&lines);
        }
        if let Some(log) = &self.log {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            // A full disk must not end a build that would otherwise succeed.
            let _ = log.write_all(lines.as_bytes());
        }
    }
}

/// The level as written in a line.
fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => " TRACE ",
        LogLevel::Debug => " DEBUG ",
        LogLevel::Info => " INFO  ",
        LogLevel::Error => " ERROR ",
        LogLevel::Nothing => "       ",
    }
}

fn rank(level: LogLevel) -> u8 {
    match level {
        LogLevel::Trace => 0,
        LogLevel::Debug => 1,
        LogLevel::Info => 2,
        LogLevel::Error => 3,
        LogLevel::Nothing => 4,
    }
}

impl Narrator {
    /// Writes an event without forwarding it.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::OutputLine { stream: OutputStream::Stdout, line } => {
                self.say(LogLevel::Trace, line);
            }
            Event::OutputLine { stream: OutputStream::Stderr, line } => {
                self.say(LogLevel::Error, line);
            }
            Event::StageStarted { name, .. } => self.say(LogLevel::Debug, &format!("RUN {name}")),
            Event::StageCached { name, .. } => {
                self.say(LogLevel::Debug, &format!("UNCHANGED {name}"));
            }
            Event::ScriptFinished { script, status: wire::ExitStatus::TimedOut, .. } => {
                self.say(LogLevel::Error, &format!("COMMAND TIMED OUT [{script}]"));
            }
            Event::Message { text } => self.say(LogLevel::Debug, text),
            // b9c has no level for warnings. They are also shown on standard error, and are not
            // errors.
            Event::Warning { text } => self.say(LogLevel::Info, text),
            _ => {}
        }
    }
}

impl Observer for Narrator {
    fn event(&self, event: &Event) {
        self.note(event);
        self.next.event(event);
    }
}

/// Runs work that is not a build, and writes its messages as for a build.
pub(super) fn narrated<T>(
    context: &ProcessContext,
    configuration: &Configuration<'_>,
    level: Option<LogLevel>,
    work: impl AsyncFnOnce(RunContext) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    runtime::quietly(&context.console, async |ctx| {
        let log = configuration.log_file();
        let narrator =
            Narrator::new(context.console, level, log.as_deref(), Arc::clone(&ctx.observer))?;
        work(RunContext { observer: Arc::new(narrator), cancel: ctx.cancel }).await
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Nobody;

    impl Observer for Nobody {
        fn event(&self, _: &Event) {}
    }

    /// Row 120.
    #[test]
    fn the_log_has_all_levels_and_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let console =
            Console { stdout_is_terminal: false, stderr_is_terminal: false, colours: false };
        let narrator = Narrator::new(console, None, Some(&path), Arc::new(Nobody)).unwrap();
        narrator.say(LogLevel::Info, "one\ntwo");
        narrator.event(&Event::OutputLine { stream: OutputStream::Stdout, line: "out".into() });
        narrator.event(&Event::OutputLine { stream: OutputStream::Stderr, line: "err".into() });
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<(&str, &str)> = text
            .lines()
            .map(|line| match line.split_once(" - ") {
                Some((head, text)) => (&head[..9.min(head.len())], text),
                None => (line, ""),
            })
            .collect();
        assert_eq!(
            lines,
            [
                ("before", ""),
                ("[ INFO  ]", "one"),
                ("[ INFO  ]", "two"),
                ("[ TRACE ]", "out"),
                ("[ ERROR ]", "err")
            ]
        );
        let missing = folder.path().join("missing/log");
        assert!(Narrator::new(console, None, Some(&missing), Arc::new(Nobody)).is_err());
    }
}
