//! Runs one command of the recipe: prepares its environment and root, passes its output on, and
//! reports its end.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use plan::{Env, Place, Value};
use session::{Channel, ChildEvent, ExitStatus};

use super::start;
use crate::{
    Config, EngineError, State, certificates,
    events::{CommandKind, Event, OutputStream},
    step_context::StepContext,
};

/// Maximum length of a line of output. Longer lines are cut, since terminal and log are read by
/// people.
const LINE_MAX_BYTES: usize = 8 * 1024;
/// Maximum number of output lines that an error shows.
const TAIL_LINES: usize = 20;
/// Maximum standard output that is captured.
const CAPTURE_MAX_BYTES: usize = 1024 * 1024;

/// A command whose values have all been resolved.
pub(crate) struct Command<'a> {
    pub(crate) kind: CommandKind,
    pub(crate) phase: &'a str,
    pub(crate) script: &'a str,
    pub(crate) origin: Option<&'a String>,
    pub(crate) place: Place,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: &'a str,
    pub(crate) stdin: Option<&'a str>,
    /// Whether standard output is captured.
    pub(crate) capture: bool,
    /// Whether standard output is shown although it is captured.
    pub(crate) echo: bool,
    /// Whether events are emitted only if the command fails, because it is one of the engine
    /// itself.
    pub(crate) quiet: bool,
}

/// Resolves a value to text. Fails if it is a fact that was never set.
pub(crate) fn resolve(value: &Value, state: &State) -> Result<String, EngineError> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Fact(fact) => state.facts.get(fact).cloned().ok_or_else(|| {
            EngineError::Recipe(format!("the fact `{fact}` is used but was never set"))
        }),
    }
}

/// Resolves an environment to text. Later entries replace earlier ones with the same name. The
/// variables for certificates are included if the stage trusts these.
pub(crate) fn resolve_env(
    env: &Env,
    cx: &StepContext<'_>,
) -> Result<Vec<(String, String)>, EngineError> {
    let mut resolved: Vec<(String, String)> = Vec::with_capacity(env.len() + 8);
    let mut set = |name: String, value: String| {
        resolved.retain(|(other, _)| *other != name);
        resolved.push((name, value));
    };
    let trusts = cx.stage.network || cx.stage.context.ca_bundle;
    if cx.config.ca_bundle.is_some() && trusts {
        for (name, value) in certificates::environment() {
            set(name, value);
        }
    }
    for (name, value) in env {
        set(name.clone(), resolve(value, cx.state)?);
    }
    Ok(resolved)
}

/// The failure of a command.
pub(crate) struct Failed {
    pub(crate) error: EngineError,
    /// The standard output that was captured before the failure.
    pub(crate) captured: Vec<u8>,
    /// Set when the command ran without events; they are emitted by [`Failed::report`].
    unreported: Option<Ended>,
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self { error, captured: Vec::new(), unreported: None }
    }
}

impl Failed {
    /// Emits the events that were suppressed for a quiet command, and returns the error.
    pub(crate) fn report(self, config: &Config) -> EngineError {
        if let EngineError::Script { phase, script, origin, place, tail, .. } = &self.error
            && let Some(Ended { status, elapsed, cpu }) = self.unreported
        {
            let kind = CommandKind::Script;
            let (phase, script, origin) = (phase.clone(), script.clone(), origin.clone());
            let place = *place;
            let emit = |event: Event| config.observer.event(&event);
            let (named, called) = (phase.clone(), script.clone());
            emit(Event::ScriptStarted { kind, phase: named, script: called, origin, place });
            for line in tail {
                emit(Event::OutputLine { stream: OutputStream::Stderr, line: line.clone() });
            }
            emit(Event::ScriptFinished { kind, phase, script, status, elapsed, cpu });
        }
        self.error
    }
}

/// Runs a command to its end, and returns the captured standard output.
pub(crate) async fn run(
    command: Command<'_>,
    cx: &StepContext<'_>,
) -> Result<Vec<u8>, EngineError> {
    run_capturing(command, cx).await.map_err(|failed| failed.report(cx.config))
}

/// Like [`run`], but the error contains the captured output of the failed command.
pub(crate) async fn run_capturing(
    command: Command<'_>,
    cx: &StepContext<'_>,
) -> Result<Vec<u8>, Failed> {
    let session_error = |source| cx.failed(command.script)(source);
    let process = process_of(&command, cx)?;
    let emit = |event: Event| {
        if !command.quiet {
            cx.emit(&event);
        }
    };
    emit(Event::ScriptStarted {
        kind: command.kind,
        phase: command.phase.to_owned(),
        script: command.script.to_owned(),
        origin: command.origin.cloned(),
        place: command.place,
    });
    let started = Instant::now();
    let mut lines = Lines::default();
    let mut begun = process.clone().spawn().await;
    if let Err(error) = &begun
        && start::needs_bash(error)
    {
        begun = process.clone().interpreted_by(start::SHELL).spawn().await;
    }
    let mut child = match begun {
        Ok(child) => child,
        Err(error) => {
            let root = cx.root_of(command.place)?;
            let reason = start::reason(&process, &root, command.place, &error).await;
            let Some((status, reason)) = reason else { return Err(session_error(error).into()) };
            lines.take(OutputStream::Stderr, format!("{reason}\n").as_bytes(), &mut |e| emit(e));
            let ended = Ended {
                status: ExitStatus::Code(status),
                elapsed: started.elapsed(),
                cpu: Duration::ZERO,
            };
            emit(ended.event(&command));
            return Err(ended.failed(&command, cx, lines, Vec::new()));
        }
    };
    send_input(&mut child, command.stdin);
    let mut captured = Vec::new();
    let exited = loop {
        match child.next().await.map_err(session_error)? {
            ChildEvent::Output(channel, bytes) => {
                if command.capture && channel == Channel::Stdout {
                    let room = CAPTURE_MAX_BYTES.saturating_sub(captured.len());
                    captured.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    if !command.echo {
                        continue;
                    }
                }
                lines.take(stream_of(channel), &bytes, &mut |event| emit(event));
            }
            ChildEvent::Exited(exited) => break exited,
        }
    };
    lines.finish(&mut |event| emit(event));
    let ended = Ended { status: exited.status, elapsed: started.elapsed(), cpu: exited.cpu };
    emit(ended.event(&command));
    if exited.status.success() {
        return Ok(captured);
    }
    Err(ended.failed(&command, cx, lines, captured))
}

/// Sends the standard input to a command, as a separate task.
fn send_input(child: &mut session::Child, text: Option<&str>) {
    if let (Some(input), Some(text)) = (child.take_input(), text) {
        let text = text.to_owned();
        tokio::spawn(async move {
            input.send(text.as_bytes()).await;
            input.end().await;
        });
    }
}

/// The exit status and the times of a command that has ended.
struct Ended {
    status: ExitStatus,
    elapsed: Duration,
    cpu: Duration,
}

impl Ended {
    fn event(&self, command: &Command<'_>) -> Event {
        Event::ScriptFinished {
            kind: command.kind,
            phase: command.phase.to_owned(),
            script: command.script.to_owned(),
            status: self.status,
            elapsed: self.elapsed,
            cpu: self.cpu,
        }
    }

    fn failed(
        self,
        command: &Command<'_>,
        cx: &StepContext<'_>,
        lines: Lines,
        captured: Vec<u8>,
    ) -> Failed {
        let status = self.status;
        let error = EngineError::Script {
            phase: command.phase.to_owned(),
            script: command.script.to_owned(),
            origin: command.origin.cloned(),
            place: command.place,
            status,
            timeout: time_limit(cx).filter(|_| status == ExitStatus::TimedOut),
            tail: lines.tail.into(),
        };
        Failed { error, captured, unreported: command.quiet.then_some(self) }
    }
}

/// Returns the time limit of scripts in the stage: its own, or else the configured one.
fn time_limit(cx: &StepContext<'_>) -> Option<Duration> {
    let own = cx.stage.timeout_s.map(|seconds| Duration::from_secs(seconds.into()));
    own.or(cx.config.script_timeout)
}

/// Converts a command to one of the session.
fn process_of(
    command: &Command<'_>,
    cx: &StepContext<'_>,
) -> Result<session::Command, EngineError> {
    let process = cx
        .session()
        .command(&command.argv)
        .envs(command.env.iter().cloned())
        .current_dir(command.cwd)
        .chroot(cx.root_of(command.place)?)
        .timeout(time_limit(cx))
        .ignore_sync(!cx.config.keep_sync);
    Ok(if command.stdin.is_some() { process.pipe_stdin() } else { process })
}

fn stream_of(channel: Channel) -> OutputStream {
    if channel == Channel::Stderr { OutputStream::Stderr } else { OutputStream::Stdout }
}

/// A splitter of output into lines, which keeps the last of them for errors.
#[derive(Default)]
struct Lines {
    partial: [Vec<u8>; 2],
    tail: VecDeque<String>,
}

impl Lines {
    fn take(&mut self, stream: OutputStream, bytes: &[u8], emit: &mut dyn FnMut(Event)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let partial = &mut self.partial[stream as usize];
            let room = LINE_MAX_BYTES.saturating_sub(partial.len());
            partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.line(stream, emit);
            }
        }
    }

    fn line(&mut self, stream: OutputStream, emit: &mut dyn FnMut(Event)) {
        let bytes = std::mem::take(&mut self.partial[stream as usize]);
        let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.clone());
        emit(Event::OutputLine { stream, line });
    }

    fn finish(&mut self, emit: &mut dyn FnMut(Event)) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            if !self.partial[stream as usize].is_empty() {
                self.line(stream, emit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_joined_and_bounded() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut emit = |event| {
            if let Event::OutputLine { line, .. } = event {
                seen.push(line);
            }
        };
        lines.take(OutputStream::Stdout, b"one\r\ntw", &mut emit);
        lines.take(OutputStream::Stderr, b"between\n", &mut emit);
        lines.take(OutputStream::Stdout, b"o\n", &mut emit);
        lines.take(OutputStream::Stdout, &[b'x'; 3 * LINE_MAX_BYTES], &mut emit);
        lines.finish(&mut emit);
        assert_eq!(seen[..3], ["one", "between", "two"]);
        assert_eq!(seen[3].len(), LINE_MAX_BYTES);
    }
}
