//! The wording of events, common to the terminal, the log and the JSON lines, and how important
//! each line is.

use checked::Printable;
use engine::events::{CommandKind, Event, StepKind};

use super::{
    failure::{host_and_port, status_words},
    text,
};

/// The importance of a line, which decides where it is shown and in which colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Shown from `--debug 2` on.
    Trace,
    /// Shown from `--debug 1` on.
    Detail,
    /// Shown with `-v`, and from `--debug 1` on.
    Closer,
    /// A line of a script's output, shown with `-v`.
    Output,
    /// A step of the build, hidden by `-q`.
    Progress,
    /// A remark, hidden by `-q`.
    Remark,
    /// A line that is always shown.
    Warning,
}

/// The level of `--debug` from which on details are shown.
pub(crate) const DEBUG_DETAIL: u32 = 1;
/// The level of `--debug` from which on traces are shown.
pub(crate) const DEBUG_TRACE: u32 = 2;

/// Returns the line for an event and its importance, if the event has a line.
pub(crate) fn line(event: &Event) -> Option<(Weight, Printable)> {
    if let Event::OutputLine { line, .. } = event {
        return Some((Weight::Output, Printable::output_line(line)));
    }
    let line = scripts(event).or_else(|| machine(event)).or_else(|| outputs(event));
    line.map(|(weight, text)| (weight, text.into()))
}

fn scripts(event: &Event) -> Option<(Weight, String)> {
    Some(match event {
        Event::BuildStarted { name, stages } => {
            (Weight::Detail, format!("Building {name}: {stages} stage{}", text::plural(*stages)))
        }
        Event::StageStarted { name, .. } => (Weight::Detail, format!("Stage: {name}")),
        Event::StageCached { name, .. } => {
            (Weight::Progress, format!("Unchanged, taken from the cache: {name}"))
        }
        Event::StageFinished { name, elapsed, .. } => {
            (Weight::Detail, format!("Stage {name} took {}", text::duration(*elapsed)))
        }
        // Uploads are only details, because they are many and quick.
        Event::StepStarted { kind: StepKind::Upload, title } => {
            (Weight::Detail, text::capitalised(title))
        }
        Event::StepStarted { title, .. } => (Weight::Progress, text::capitalised(title)),
        Event::StepFinished { title, elapsed, .. } => (
            Weight::Detail,
            format!("{}: took {}", text::capitalised(title), text::duration(*elapsed)),
        ),
        Event::ScriptStarted { kind: CommandKind::Script, phase, script, .. } => {
            (Weight::Progress, format!("Running: {phase}/{script}"))
        }
        Event::ScriptStarted { phase, script, .. } => {
            (Weight::Detail, format!("{} ({phase})", text::capitalised(script)))
        }
        Event::ScriptFinished { phase, script, status, elapsed, cpu, .. } => (
            Weight::Detail,
            format!(
                "{phase}/{script}: {} after {} (processor {})",
                status_words(*status),
                text::duration(*elapsed),
                text::duration(*cpu)
            ),
        ),
        _ => return None,
    })
}

fn machine(event: &Event) -> Option<(Weight, String)> {
    Some(match event {
        Event::MachineStarting { accel, vcpus, memory_mib } => {
            let s = text::plural(usize::from(*vcpus));
            let what = format!("{accel}, {vcpus} processor{s}, {memory_mib} MiB");
            (Weight::Progress, format!("Starting the machine: {what}"))
        }
        Event::Confined { holds, .. } => (Weight::Closer, format!("Confined: {holds}")),
        Event::MachineReady { boot, kernel, restored } => {
            let boot = text::duration(*boot);
            let how = if *restored { " from saved memory" } else { "" };
            let words = format!("The machine answers after {boot}{how}, with Linux {kernel}");
            (Weight::Detail, words)
        }
        Event::Connection { host, port, refused: Some(reason), .. } => {
            let (target, reason) = (host_and_port(host, *port), Printable::message(reason));
            let what = if *port == 0 { "the name" } else { "a connection to" };
            (Weight::Warning, format!("{what} {target} was refused: {reason}"))
        }
        Event::Connection { host, port, sent, received, refused: None } => {
            let (sent, received) = (text::bytes(*sent), text::bytes(*received));
            (Weight::Trace, format!("Connection to {host}:{port}: {sent} out, {received} in"))
        }
        _ => return None,
    })
}

fn outputs(event: &Event) -> Option<(Weight, String)> {
    Some(match event {
        Event::OutputWritten { path, bytes, virtual_bytes, elapsed } => {
            let disk = virtual_bytes
                .map_or_else(String::new, |size| format!(", a disk of {}", text::bytes(size)));
            let (size, time) = (text::bytes(*bytes), text::duration(*elapsed));
            (Weight::Progress, format!("Wrote {}: {size}{disk}, in {time}", path.display()))
        }
        Event::Message { text: remark } => (Weight::Remark, remark.clone()),
        Event::Warning { text: warning } => (Weight::Warning, warning.clone()),
        Event::BuildFinished { .. } => (Weight::Progress, "Done".to_owned()),
        _ => return None,
    })
}
