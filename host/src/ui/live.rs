//! The live view on a terminal: finished work stays above as lines, current work is shown below and
//! redrawn.
//!
//! ```text
//! [  14.2] root.d: 3 scripts, 2 min 07 s
//! ⠹ install.d (6/14)  00:02:31  ↓ 34.5 MiB
//!   10-packages (debian-minimal)  12 s
//!   Setting up libc6:amd64 (2.36-9) ...
//! ```

use std::{io::Write as _, time::Duration};

use checked::Printable;
use engine::events::{CommandKind, Event};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{
    complaint::Complaint,
    render::{Render, Stamp, Verbosity},
    text,
    text::{Palette, Tone},
    words::{self, Weight},
};

/// Interval at which the view is redrawn if there are no events: short enough for the clock.
const TICK: Duration = Duration::from_millis(250);

/// The templates for the line of the running script, and for the same line if nothing runs.
const RUNNING: &str = "  {msg}  {elapsed}";
const IDLE: &str = "{wide_msg}";

/// The live view of a build on a terminal.
#[derive(Debug)]
pub(crate) struct Live {
    bars: MultiProgress,
    stage: ProgressBar,
    script: ProgressBar,
    last: ProgressBar,
    verbosity: Verbosity,
    palette: Palette,
    stages: usize,
    scripts: usize,
    received: u64,
    stage_name: String,
}

fn line_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant and tested")
}

impl Live {
    /// Creates a view that draws on standard error.
    pub(crate) fn new(verbosity: Verbosity, palette: Palette) -> Self {
        Self::on(MultiProgress::new(), verbosity, palette)
    }

    fn on(bars: MultiProgress, verbosity: Verbosity, palette: Palette) -> Self {
        let spinner = if palette.on { "{spinner:.green}" } else { "{spinner}" };
        let faint = if palette.on { "  {wide_msg:.dim}" } else { "  {wide_msg}" };
        let stage_template = format!("{spinner} {{prefix}}  {{elapsed_precise}}{{msg}}");
        let bar =
            |template: &str| bars.add(ProgressBar::new_spinner().with_style(line_style(template)));
        let view = Self {
            stage: bar(&stage_template),
            script: bar(IDLE),
            last: bar(faint),
            bars: bars.clone(),
            verbosity,
            palette,
            stages: 0,
            scripts: 0,
            received: 0,
            stage_name: String::new(),
        };
        view.stage.enable_steady_tick(TICK);
        view
    }

    #[cfg(test)]
    pub(super) fn hidden(verbosity: Verbosity) -> Self {
        let bars = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden());
        Self::on(bars, verbosity, Palette { on: false })
    }

    fn keep(&self, line: &str) {
        // The terminal may be gone; the build continues.
        let _ = self.bars.println(line);
    }

    /// Removes the redrawn part; lines that are printed from now on are the last ones.
    fn stop(&self) {
        for bar in [&self.last, &self.script, &self.stage] {
            bar.finish_and_clear();
        }
    }

    /// Writes a line after the redrawn part is gone, as an ordinary line: the view pads its lines
    /// to the width of the terminal, which would show when they are copied.
    fn last_words(&self, line: &str) {
        if !self.bars.is_hidden() {
            // The terminal may be gone; the exit status still reports the outcome.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    fn show_network(&self) {
        self.stage.set_message(match self.received {
            0 => String::new(),
            received => format!("  ↓ {}", text::bytes(received)),
        });
    }

    /// Shows the script or step that runs now, with its own clock.
    fn start_script(&self, name: &str) {
        self.script.set_style(line_style(RUNNING));
        self.script.set_message(String::from(Printable::message(name)));
        self.script.reset_elapsed();
        self.script.enable_steady_tick(TICK);
        self.last.set_message("");
    }

    fn clear_script(&self) {
        self.script.disable_steady_tick();
        self.script.set_style(line_style(IDLE));
        self.script.set_message("");
        self.last.set_message("");
    }

    fn update(&mut self, at: &Stamp, event: &Event) {
        match event {
            Event::BuildStarted { stages, .. } => self.stages = *stages,
            Event::MachineStarting { .. } => self.stage.set_prefix("starting the machine"),
            Event::StageStarted { index, name } => {
                self.scripts = 0;
                self.stage_name.clone_from(name);
                let name = Printable::message(name);
                self.stage.set_prefix(format!("{name} ({}/{})", index + 1, self.stages));
            }
            Event::StageFinished { name, elapsed, .. } => {
                let scripts = match self.scripts {
                    0 => String::new(),
                    count => format!("{count} script{}, ", text::plural(count)),
                };
                let name = Printable::message(name);
                let line = format!(
                    "[{:6.1}] {name}: {scripts}{}",
                    at.elapsed.as_secs_f64(),
                    text::duration(*elapsed)
                );
                self.keep(&self.palette.paint(Tone::Progress, &line));
                self.clear_script();
            }
            Event::StepStarted { title, .. } => {
                self.start_script(&text::capitalised(title));
            }
            Event::ScriptStarted { kind, phase, script, origin, .. } => {
                self.scripts += usize::from(*kind == CommandKind::Script);
                let phase = if *phase == self.stage_name { "" } else { &format!("{phase}/") };
                let origin = origin.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
                self.start_script(&format!("{phase}{script}{origin}"));
            }
            Event::OutputLine { line, .. } => {
                let line = Printable::output_line(line);
                if !line.as_str().trim().is_empty() {
                    self.last.set_message(String::from(line));
                }
            }
            Event::ScriptFinished { .. } | Event::StepFinished { .. } => self.clear_script(),
            Event::Connection { received, .. } => {
                self.received = self.received.saturating_add(*received);
                self.show_network();
            }
            Event::OutputProgress { path, done, total } => {
                let path = Printable::from(path.display().to_string());
                self.stage.set_prefix(format!("writing {path}"));
                let share = done.saturating_mul(100).checked_div(*total);
                self.last.set_message(match share {
                    Some(percent) => format!("{percent} % of {}", text::bytes(*total)),
                    None => text::bytes(*done),
                });
            }
            _ => {}
        }
    }
}

impl Render for Live {
    fn event(&mut self, at: &Stamp, event: &Event) {
        self.update(at, event);
        let Some((weight, line)) = words::line(event) else { return };
        if !self.verbosity.shows(weight) {
            return;
        }
        match (weight, event) {
            (Weight::Output, _) => self.keep(line.as_str()),
            (Weight::Remark, _) => self.keep(&self.palette.paint(Tone::Remark, line.as_str())),
            (Weight::Warning, _) => {
                self.keep(&self.palette.paint(Tone::Warning, &format!("warning: {line}")));
            }
            // Stages are printed when they end; until then, the redrawn part shows what they do.
            (Weight::Progress, Event::OutputWritten { .. } | Event::StageCached { .. })
            | (Weight::Detail | Weight::Trace | Weight::Closer, _) => {
                let line = format!("[{:6.1}] {line}", at.elapsed.as_secs_f64());
                self.keep(&self.palette.paint(Tone::Progress, &line));
            }
            (Weight::Progress, _) => {}
        }
    }

    fn closing(&mut self, _at: &Stamp, lines: &[String]) {
        self.stop();
        for line in lines {
            self.last_words(line);
        }
    }

    fn failed(&mut self, _at: &Stamp, complaint: &Complaint) {
        self.stop();
        for (number, line) in complaint.lines().into_iter().enumerate() {
            if number == 0 {
                let line = format!("vbuild: error: {line}");
                self.last_words(&self.palette.paint(Tone::Error, &line));
            } else {
                self.last_words(line.as_str());
            }
        }
    }
}
