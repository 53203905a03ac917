//! The complete log of a build. Each line has the time in UTC as in diskimage-builder's logs, and
//! each phase ends with the table that dib-run-parts prints.

use std::{io::Write, time::Duration};

use engine::events::{CommandKind, Event};

use super::{
    complaint::Complaint,
    render::{Render, Stamp},
    words,
};

/// A renderer that writes the log to a stream.
#[derive(Debug)]
pub(crate) struct Log<W> {
    out: W,
    /// The phase whose scripts are collected; a stage may run several phases.
    phase: String,
    scripts: Vec<(String, Duration)>,
}

impl<W: Write + Send> Log<W> {
    /// Creates a log without lines.
    pub(crate) fn new(out: W) -> Self {
        Self { out, phase: String::new(), scripts: Vec::new() }
    }

    fn line(&mut self, at: &Stamp, text: &str) {
        // A full disk must not fail a build that would otherwise succeed. If the outputs do not fit
        // either, writing them reports the error.
        let _ = writeln!(self.out, "{} | {text}", at.utc().log_stamp());
    }

    /// Writes the table of the current phase, with the scripts in byte order.
    fn profile(&mut self, at: &Stamp) {
        let mut scripts = std::mem::take(&mut self.scripts);
        if scripts.is_empty() {
            return;
        }
        scripts.sort();
        let dashes = "-".repeat(23);
        self.line(at, &format!("dib-run-parts {dashes} PROFILING {dashes}"));
        let target = format!("dib-run-parts Target: {}", self.phase);
        self.line(at, &target);
        self.line(at, &format!("dib-run-parts {:<40} {:>10}", "Script", "Seconds"));
        for (script, elapsed) in scripts {
            let seconds = elapsed.as_secs_f64();
            self.line(at, &format!("dib-run-parts {script:<40} {seconds:>10.3}"));
        }
        self.line(at, &format!("dib-run-parts {dashes} END PROFILING {dashes}"));
    }
}

impl<W: Write + Send> Render for Log<W> {
    fn event(&mut self, at: &Stamp, event: &Event) {
        if let Event::ScriptStarted { phase, .. } = event
            && *phase != self.phase
        {
            self.profile(at);
        }
        if let Some((_, text)) = words::line(event) {
            self.line(at, text.as_str());
        }
        match event {
            Event::ScriptFinished { kind: CommandKind::Script, phase, script, elapsed, .. } => {
                self.phase.clone_from(phase);
                self.scripts.push((script.clone(), *elapsed));
            }
            Event::StageFinished { .. } => self.profile(at),
            _ => {}
        }
        // A process that is killed has no other opportunity to flush its buffer.
        let _ = self.out.flush();
    }

    fn closing(&mut self, at: &Stamp, lines: &[String]) {
        for line in lines {
            self.line(at, line);
        }
        let _ = self.out.flush();
    }

    fn failed(&mut self, at: &Stamp, complaint: &Complaint) {
        self.profile(at);
        for (number, line) in complaint.lines().into_iter().enumerate() {
            let prefix = if number == 0 { "error: " } else { "" };
            self.line(at, &format!("{prefix}{line}"));
        }
        let _ = self.out.flush();
    }
}
