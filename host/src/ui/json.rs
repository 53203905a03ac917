//! JSON lines for programs: `--machine-readable=CHANNEL`.
//!
//! Every line has the keys of virt-dib's lines: `message`, `timestamp` and `type`, which is
//! `message`, `info`, `warning` or `error`. Lines that virt-dib did not have are of type `progress`
//! or `output`. A line for an event of the build, other than a remark, a warning or a line of
//! output, has the event's name under `event` and its data under further keys.

use std::io::Write;

use checked::{Paragraph, printable_json};
use engine::events::{Event, OutputStream};
use serde_json::{Map, Value, json};

use super::{
    complaint::Complaint,
    failure::status_words,
    render::{Render, Stamp},
    words::{self, Weight},
};

/// A renderer that writes JSON lines to a stream.
#[derive(Debug)]
pub(crate) struct Json<W> {
    /// The stream that the lines are written to.
    pub(crate) out: W,
    /// Whether the output of scripts is written too.
    pub(crate) output: bool,
}

impl<W: Write + Send> Json<W> {
    fn write(&mut self, at: &Stamp, kind: &str, message: &str, facts: Value) {
        let mut line = Map::new();
        line.insert("message".into(), message.into());
        line.insert("timestamp".into(), at.utc().rfc3339().into());
        line.insert("type".into(), kind.into());
        if let Value::Object(facts) = facts {
            line.extend(facts.into_iter().filter(|(_, value)| !value.is_null()));
        }
        // A closed pipe is no reason to fail a build.
        let line = printable_json(&Value::Object(line).to_string());
        let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }
}

impl<W: Write + Send> Render for Json<W> {
    fn event(&mut self, at: &Stamp, event: &Event) {
        if let Event::OutputProgress { path, done, total } = event {
            let facts = json!({
                "event": "output-progress", "path": path, "done": done, "total": total,
            });
            return self.write(at, "progress", &format!("Writing {}", path.display()), facts);
        }
        let Some((weight, message)) = words::line(event) else { return };
        let kind = match weight {
            Weight::Warning => "warning",
            Weight::Remark => "info",
            Weight::Progress => "message",
            Weight::Output if !self.output => return,
            Weight::Output => "output",
            Weight::Trace | Weight::Detail | Weight::Closer => "progress",
        };
        self.write(at, kind, message.as_str(), facts(event));
    }

    fn failed(&mut self, at: &Stamp, complaint: &Complaint) {
        let failure = complaint.failure.as_ref();
        let facts = json!({
            "causes": texts(complaint.chain.get(1..).unwrap_or_default()),
            "hints": texts(&complaint.hints),
            "tool_output": complaint.tool_output,
            "exit_status": complaint.exit_status,
            "log": complaint.log,
            "phase": failure.map(|f| &f.phase),
            "script": failure.map(|f| &f.script),
            "element": failure.and_then(|f| f.origin.as_ref()),
            "script_status": failure.and_then(|f| f.status).map(status_words),
            "refused": failure.map(|f| &f.refused),
            "tail": failure.map(|f| &f.tail),
        });
        let message = complaint.chain.first().map(ToString::to_string).unwrap_or_default();
        self.write(at, "error", &message, facts);
    }
}

fn texts(paragraphs: &[Paragraph]) -> Vec<String> {
    paragraphs.iter().map(ToString::to_string).collect()
}

fn facts(event: &Event) -> Value {
    match event {
        Event::BuildStarted { name, stages } => {
            json!({"event": "build-started", "name": name, "stages": stages})
        }
        Event::BuildFinished { elapsed } => {
            json!({"event": "build-finished", "seconds": elapsed.as_secs_f64()})
        }
        Event::MachineStarting { accel, vcpus, memory_mib } => json!({
            "event": "machine-starting", "accel": accel, "vcpus": vcpus, "memory_mib": memory_mib,
        }),
        Event::Confined { process, landlock, lacks, .. } => json!({
            "event": "confined", "process": process, "landlock": landlock, "lacks": lacks,
        }),
        Event::MachineReady { boot, kernel, restored } => json!({
            "event": "machine-ready", "seconds": boot.as_secs_f64(), "kernel": kernel,
            "restored": restored,
        }),
        Event::StageStarted { index, name } => {
            json!({"event": "stage-started", "index": index, "stage": name})
        }
        Event::StageCached { index, name } => {
            json!({"event": "stage-cached", "index": index, "stage": name})
        }
        Event::StageFinished { index, name, elapsed } => json!({
            "event": "stage-finished", "index": index, "stage": name,
            "seconds": elapsed.as_secs_f64(),
        }),
        Event::StepStarted { kind: _, title } => json!({"event": "step-started", "step": title}),
        Event::StepFinished { kind: _, title, elapsed } => json!({
            "event": "step-finished", "step": title, "seconds": elapsed.as_secs_f64(),
        }),
        Event::ScriptStarted { .. } | Event::ScriptFinished { .. } | Event::OutputLine { .. } => {
            script_facts(event)
        }
        Event::Connection { host, port, sent, received, refused } => json!({
            "event": "connection", "host": host, "port": port, "sent": sent,
            "received": received, "refused": refused,
        }),
        Event::OutputWritten { path, bytes, virtual_bytes, elapsed } => json!({
            "event": "output-written", "path": path, "bytes": bytes,
            "virtual_bytes": virtual_bytes, "seconds": elapsed.as_secs_f64(),
        }),
        Event::OutputProgress { .. } | Event::Message { .. } | Event::Warning { .. } => Value::Null,
    }
}

fn script_facts(event: &Event) -> Value {
    match event {
        Event::ScriptStarted { kind: _, phase, script, origin, place } => json!({
            "event": "script-started", "phase": phase, "script": script, "element": origin,
            "place": match place {
                plan::Place::Tools => "appliance",
                plan::Place::Image => "image",
            },
        }),
        Event::ScriptFinished { kind: _, phase, script, status, elapsed, cpu } => json!({
            "event": "script-finished", "phase": phase, "script": script,
            "status": status_words(*status), "ok": status.success(),
            "seconds": elapsed.as_secs_f64(), "cpu_seconds": cpu.as_secs_f64(),
        }),
        Event::OutputLine { stream, .. } => json!({
            "stream": match stream {
                OutputStream::Stdout => "stdout",
                OutputStream::Stderr => "stderr",
            },
        }),
        _ => Value::Null,
    }
}
