//! The closing lines of a build, which show where the time went: its slowest scripts and steps.

use std::time::Duration;

use engine::events::{Event, StepKind};

use super::text;

/// Maximum number of rows of the closing table; the log has the rest.
const ROWS: usize = 8;
/// Width of the longest bar in columns.
const BAR_COLUMNS: u32 = 24;
/// Minimum duration of a row. A build in which nothing took this long has no table.
const WORTH_TELLING: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Entry {
    name: String,
    elapsed: Duration,
    cpu: Option<Duration>,
}

/// A collector of how long scripts, steps and outputs took.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    entries: Vec<Entry>,
    received: u64,
    boot: Option<Duration>,
}

impl Timeline {
    /// Processes one event.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::ScriptFinished { phase, script, elapsed, cpu, .. } => self.entries.push(Entry {
                name: format!("{phase}/{script}"),
                elapsed: *elapsed,
                cpu: Some(*cpu),
            }),
            Event::StepFinished { kind: StepKind::TreeOutput, title, elapsed } => {
                self.add_output(title.clone(), *elapsed);
            }
            Event::StepFinished { title, elapsed, .. } => {
                self.entries.push(Entry { name: title.clone(), elapsed: *elapsed, cpu: None });
            }
            Event::OutputWritten { path, elapsed, .. } => {
                self.add_output(format!("write {}", path.display()), *elapsed);
            }
            Event::Connection { received, .. } => {
                self.received = self.received.saturating_add(*received);
            }
            Event::MachineReady { boot, .. } => {
                self.boot = Some(self.boot.unwrap_or_default() + *boot);
            }
            _ => {}
        }
    }

    /// Adds the time of an output. A tree is written by a step and also reported as an output; it
    /// counts once, with the longer time.
    fn add_output(&mut self, name: String, elapsed: Duration) {
        match self.entries.iter_mut().find(|entry| entry.cpu.is_none() && entry.name == name) {
            Some(entry) => entry.elapsed = entry.elapsed.max(elapsed),
            None => self.entries.push(Entry { name, elapsed, cpu: None }),
        }
    }

    /// Returns the closing lines of a build that took `total`.
    pub(crate) fn lines(&self, total: Duration) -> Vec<String> {
        let mut slowest: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.elapsed >= WORTH_TELLING).collect();
        slowest.sort_by_key(|entry| std::cmp::Reverse(entry.elapsed));
        let mut lines = Vec::new();
        if let Some(longest) = slowest.first().map(|entry| entry.elapsed) {
            lines.push("Where the time went:".to_owned());
            lines.extend(slowest.iter().take(ROWS).map(|entry| entry.line(longest)));
        }
        let boot = self.boot.map_or_else(String::new, |boot| {
            format!(", {} of it to start the machine", text::duration(boot))
        });
        let network = match self.received {
            0 => String::new(),
            received => format!("; {} came over the network", text::bytes(received)),
        };
        lines.push(format!("Took {}{boot}{network}", text::duration(total)));
        lines
    }
}

impl Entry {
    fn line(&self, longest: Duration) -> String {
        let share = self.elapsed.as_secs_f64() / longest.as_secs_f64();
        let columns = (1..=BAR_COLUMNS)
            .take_while(|column| f64::from(*column) <= share * f64::from(BAR_COLUMNS))
            .count();
        let time = text::duration(self.elapsed);
        let cpu = self
            .cpu
            .map_or_else(String::new, |cpu| format!(" (processor {})", text::duration(cpu)));
        format!("  {time:>12}  {:<24}  {}{cpu}", "▇".repeat(columns.max(1)), self.name)
    }
}

#[cfg(test)]
mod tests {
    use engine::events::CommandKind;

    use super::*;

    #[test]
    fn slowest_first() {
        let mut timeline = Timeline::default();
        for (script, seconds) in [("a", 10), ("b", 40), ("c", 0)] {
            timeline.event(&Event::ScriptFinished {
                kind: CommandKind::Script,
                phase: "p".into(),
                script: script.into(),
                status: wire::ExitStatus::Code(0),
                elapsed: Duration::from_secs(seconds),
                cpu: Duration::from_secs(1),
            });
        }
        let lines = timeline.lines(Duration::from_secs(60));
        assert_eq!(lines.len(), 4);
        assert!(lines[1].contains("p/b") && lines[2].contains("p/a"));
        assert_eq!(lines[1].matches('▇').count(), 24);
        assert_eq!(lines[2].matches('▇').count(), 6);
        assert_eq!(lines[3], "Took 1 min 00 s");
    }

    #[test]
    fn an_output_that_a_step_wrote_counts_once() {
        let mut timeline = Timeline::default();
        timeline.event(&Event::OutputWritten {
            path: "a.tar".into(),
            bytes: 1,
            virtual_bytes: None,
            elapsed: Duration::from_secs(3),
        });
        timeline.event(&Event::StepFinished {
            kind: StepKind::TreeOutput,
            title: "write a.tar".into(),
            elapsed: Duration::from_secs(4),
        });
        let lines = timeline.lines(Duration::from_secs(9));
        assert_eq!(lines.iter().filter(|line| line.contains("a.tar")).count(), 1);
        assert!(lines[1].contains("4.0 s"));
    }

    #[test]
    fn a_quick_build_has_only_the_sum() {
        assert_eq!(Timeline::default().lines(Duration::from_millis(300)), ["Took 0.3 s"]);
    }
}
