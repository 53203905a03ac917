//! The details of a failed script: its name and origin, how it ended, and its last lines.

use std::collections::VecDeque;

use checked::Printable;
use engine::events::Event;
use wire::ExitStatus;

/// Number of output lines that a failure shows: enough for a Python traceback or the end of an apt
/// run, few enough to fit a terminal.
const TAIL_LINES: usize = 20;

/// Maximum number of refused connections that a failure shows; scripts retry the same ones often.
const REFUSED_MAX: usize = 5;

/// A script that failed, or that was running when something else failed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// The phase in which the script ran.
    pub(crate) phase: String,
    /// The name of the script.
    pub(crate) script: String,
    /// The element that the script came from.
    pub(crate) origin: Option<String>,
    /// The place where the script ran, in words for the user.
    pub(crate) place: &'static str,
    /// How the script ended; `None` if it was still running.
    pub(crate) status: Option<ExitStatus>,
    /// The refused connections of the script: each target once, with the reason.
    pub(crate) refused: Vec<Printable>,
    /// The last lines of the script's output.
    pub(crate) tail: Vec<Printable>,
}

/// Describes how a command ended.
pub(crate) fn status_words(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit status {code}"),
        ExitStatus::Signal(signal) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("killed by {name}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        ExitStatus::TimedOut => "ended by vbuild, its time was up".to_owned(),
    }
}

/// Formats the host and port that a guest asked for. With port 0, it asked only for the name.
pub(crate) fn host_and_port(host: &str, port: u16) -> String {
    let host = Printable::message(host);
    if port == 0 { host.into() } else { format!("{host}:{port}") }
}

impl Failure {
    fn refuse(&mut self, target: &str, reason: &str) {
        let line = Printable::from(format!("{target}: {}", Printable::message(reason)));
        if self.refused.len() < REFUSED_MAX && !self.refused.contains(&line) {
            self.refused.push(line);
        }
    }

    /// Returns the lines below an error's message, without their indentation.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("script:  {}/{}", self.phase, self.script)];
        if let Some(origin) = &self.origin {
            lines.push(format!("element: {origin}"));
        }
        lines.push(format!("ran in:  {}", self.place));
        let ended = self.status.map_or_else(|| "still running".to_owned(), status_words);
        lines.push(format!("ended:   {ended}"));
        lines.extend(self.refused.iter().map(|refused| format!("refused: {refused}")));
        match self.tail.len() {
            0 => lines.push("it wrote nothing".to_owned()),
            _ => lines.push("its last output:".to_owned()),
        }
        lines.extend(self.tail.iter().map(|line| format!("  | {line}")));
        lines
    }
}

/// A watcher of events that finds the script that a failure is about.
#[derive(Debug, Default)]
pub(crate) struct FailureWatch {
    current: Option<Failure>,
    tail: VecDeque<Printable>,
}

impl FailureWatch {
    /// Processes one event.
    pub(crate) fn event(&mut self, event: &Event) {
        if self.current.as_ref().is_some_and(|script| script.status.is_some()) {
            return;
        }
        match event {
            Event::ScriptStarted { phase, script, origin, place, .. } => {
                self.tail.clear();
                self.current = Some(Failure {
                    phase: phase.clone(),
                    script: script.clone(),
                    origin: origin.clone(),
                    place: match place {
                        plan::Place::Tools => "the appliance",
                        plan::Place::Image => "the image",
                    },
                    status: None,
                    refused: Vec::new(),
                    tail: Vec::new(),
                });
            }
            Event::OutputLine { line, .. } => {
                if self.tail.len() == TAIL_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back(Printable::output_line(line));
            }
            Event::Connection { host, port, refused: Some(reason), .. } => {
                if let Some(script) = &mut self.current {
                    script.refuse(&host_and_port(host, *port), reason);
                }
            }
            Event::ScriptFinished { status, .. } if status.success() => self.current = None,
            Event::ScriptFinished { status, .. } => {
                if let Some(script) = &mut self.current {
                    script.status = Some(*status);
                }
            }
            _ => {}
        }
    }

    /// Returns the script that failed or is running, if there is one.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let tail = self.tail.iter().cloned().collect();
        self.current.clone().map(|script| Failure { tail, ..script })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::events::{CommandKind, OutputStream};

    use super::*;

    fn started() -> Event {
        Event::ScriptStarted {
            kind: CommandKind::Script,
            phase: "install.d".into(),
            script: "10-x".into(),
            origin: Some("a".into()),
            place: plan::Place::Image,
        }
    }

    fn ended(status: ExitStatus) -> Event {
        Event::ScriptFinished {
            kind: CommandKind::Script,
            phase: "install.d".into(),
            script: "10-x".into(),
            status,
            elapsed: Duration::from_secs(1),
            cpu: Duration::ZERO,
        }
    }

    #[test]
    fn the_last_lines_of_the_failed_script() {
        let mut watch = FailureWatch::default();
        watch.event(&started());
        for number in 0..30 {
            let line = format!("line {number}\u{1b}[1m");
            watch.event(&Event::OutputLine { stream: OutputStream::Stderr, line });
        }
        watch.event(&ended(ExitStatus::Code(3)));
        watch.event(&started());
        let failure = watch.failure().unwrap();
        assert_eq!(failure.tail.len(), TAIL_LINES);
        assert_eq!(failure.tail[0], "line 10");
        let lines = failure.lines();
        assert_eq!(
            lines[..5],
            [
                "script:  install.d/10-x",
                "element: a",
                "ran in:  the image",
                "ended:   exit status 3",
                "its last output:"
            ]
        );
        assert_eq!(lines[5], "  | line 10");
    }

    #[test]
    fn refused_connections_are_told_with_the_script_that_tried() {
        let mut watch = FailureWatch::default();
        let refused = |port| Event::Connection {
            host: "a\u{7}.example".into(),
            port,
            sent: 0,
            received: 0,
            refused: Some("the stage `copy` has no network".into()),
        };
        watch.event(&refused(1));
        watch.event(&started());
        for port in [0, 80, 80] {
            watch.event(&refused(port));
        }
        for port in 1..100 {
            watch.event(&refused(port));
        }
        watch.event(&ended(ExitStatus::Code(1)));
        let failure = watch.failure().unwrap();
        assert_eq!(failure.refused.len(), REFUSED_MAX);
        assert!(failure.refused.iter().all(|line| !line.as_str().contains('\u{7}')), "{failure:?}");
        assert!(failure.refused[0].as_str().ends_with("example: the stage `copy` has no network"));
        assert!(failure.lines().iter().any(|line| line.starts_with("refused: ")
            && line.ends_with("example:80: the stage `copy` has no network")));
    }

    #[test]
    fn a_script_that_ended_well_is_no_failure() {
        let mut watch = FailureWatch::default();
        watch.event(&started());
        assert_eq!(watch.failure().unwrap().status, None);
        watch.event(&ended(ExitStatus::Code(0)));
        assert_eq!(watch.failure(), None);
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(status_words(ExitStatus::Signal(9)), "killed by SIGKILL");
        assert_eq!(status_words(ExitStatus::Signal(64)), "killed by signal 64");
    }
}
