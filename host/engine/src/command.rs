//! Runs one command of the recipe: environment, place, live output, the end.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use plan::{Env, Place, Stage, Value};
use session::ChildEvent;
use wire::{Channel, ExitStatus, Spawn, Stdin};

use crate::{
    Config, EngineError, State, certificates,
    events::{Event, OutputStream},
    guest::{Guest, TOOLS},
    start,
};

/// Longer lines of output are cut: a terminal and a log are for people.
const LINE_MAX_BYTES: usize = 8 * 1024;
/// Lines that an error shows.
const TAIL_LINES: usize = 20;
/// The most standard output that is kept for a fact.
const CAPTURE_MAX_BYTES: usize = 1024 * 1024;

/// A command with everything resolved.
pub(crate) struct Command<'a> {
    pub(crate) phase: &'a str,
    pub(crate) script: &'a str,
    pub(crate) origin: Option<&'a String>,
    pub(crate) place: Place,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: &'a str,
    pub(crate) stdin: Option<&'a str>,
    /// Keep standard output.
    pub(crate) capture: bool,
    /// Show it although it is kept.
    pub(crate) echo: bool,
    /// It makes no events unless it fails, as it is a step of the engine's own.
    pub(crate) quiet: bool,
}

/// The directory that is `/` for a place, seen from the agent.
pub(crate) fn root_of(place: Place, stage: &Stage) -> Result<String, EngineError> {
    match (place, &stage.context.image_root) {
        (Place::Tools, _) => Ok(TOOLS.to_owned()),
        (Place::Image, Some(root)) => Ok(Guest::tools_path(root)),
        (Place::Image, None) => Err(EngineError::Recipe(format!(
            "stage {} runs something in the image, but declares no image root",
            stage.name
        ))),
    }
}

/// A value as text.
pub(crate) fn resolve(value: &Value, state: &State) -> Result<String, EngineError> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::Fact(fact) => state.facts.get(fact).cloned().ok_or_else(|| {
            EngineError::Recipe(format!("the fact `{fact}` is used but was never set"))
        }),
    }
}

/// An environment as text, later entries winning, with the certificates that
/// the stage is to trust.
pub(crate) fn resolve_env(
    env: &Env,
    stage: &Stage,
    config: &Config,
    state: &State,
) -> Result<Vec<(String, String)>, EngineError> {
    let mut resolved: Vec<(String, String)> = Vec::with_capacity(env.len() + 8);
    let mut set = |name: String, value: String| {
        resolved.retain(|(other, _)| *other != name);
        resolved.push((name, value));
    };
    if config.ca_bundle.is_some() && (stage.network || stage.context.ca_bundle) {
        for (name, value) in certificates::environment() {
            set(name, value);
        }
    }
    for (name, value) in env {
        set(name.clone(), resolve(value, state)?);
    }
    Ok(resolved)
}

/// A command that failed.
pub(crate) struct Failed {
    pub(crate) error: EngineError,
    /// What was captured of it by then.
    pub(crate) captured: Vec<u8>,
    /// Of a quiet one that has ended, about which nothing was told yet.
    untold: Option<Untold>,
}

struct Untold {
    place: Place,
    elapsed: Duration,
    cpu: Duration,
}

impl From<EngineError> for Failed {
    fn from(error: EngineError) -> Self {
        Self { error, captured: Vec::new(), untold: None }
    }
}

impl Failed {
    /// Tells what a command that is not quiet has told by its end, and gives the error.
    pub(crate) fn told(self, config: &Config) -> EngineError {
        if let EngineError::Script { phase, script, origin, status, tail, .. } = &self.error
            && let Some(Untold { place, elapsed, cpu }) = self.untold
        {
            let (phase, script, origin) = (phase.clone(), script.clone(), origin.clone());
            let tell = |event: Event| config.observer.event(&event);
            tell(Event::ScriptStarted {
                phase: phase.clone(),
                script: script.clone(),
                origin,
                place,
            });
            for line in tail {
                tell(Event::OutputLine { stream: OutputStream::Stderr, line: line.clone() });
            }
            tell(Event::ScriptFinished { phase, script, status: *status, elapsed, cpu });
        }
        self.error
    }
}

/// Runs a command to its end. Gives the captured standard output.
pub(crate) async fn run(
    guest: &Guest,
    stage: &Stage,
    config: &Config,
    command: Command<'_>,
) -> Result<Vec<u8>, EngineError> {
    run_capturing(guest, stage, config, command).await.map_err(|failed| failed.told(config))
}

/// The same for a command whose output tells something when it fails, too.
pub(crate) async fn run_capturing(
    guest: &Guest,
    stage: &Stage,
    config: &Config,
    command: Command<'_>,
) -> Result<Vec<u8>, Failed> {
    let session_error = |source| EngineError::Session {
        stage: stage.name.clone(),
        step: command.script.to_owned(),
        source,
    };
    let spawn = spawn_of(&command, stage, config)?;
    let emit = |event: Event| {
        if !command.quiet {
            config.observer.event(&event);
        }
    };
    emit(Event::ScriptStarted {
        phase: command.phase.to_owned(),
        script: command.script.to_owned(),
        origin: command.origin.cloned(),
        place: command.place,
    });
    let started = Instant::now();
    let mut lines = Lines::default();
    let mut begun = guest.session.spawn(spawn.clone()).await;
    if let Err(error) = &begun
        && let Some(again) = start::by_bash(&spawn, error)
    {
        begun = guest.session.spawn(again).await;
    }
    let mut child = match begun {
        Ok(child) => child,
        Err(error) => {
            let reason = start::reason(guest, &spawn, command.place, &error).await;
            let Some((status, reason)) = reason else { return Err(session_error(error).into()) };
            lines.take(OutputStream::Stderr, format!("{reason}\n").as_bytes(), &mut |e| emit(e));
            let ended = Ended {
                status: ExitStatus::Code(status),
                elapsed: started.elapsed(),
                cpu: Duration::ZERO,
            };
            emit(ended.event(&command));
            return Err(ended.failed(&command, stage, config, lines, Vec::new()));
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
    Err(ended.failed(&command, stage, config, lines, captured))
}

/// Gives a command its standard input, beside everything else.
fn send_input(child: &mut session::Child, text: Option<&str>) {
    if let (Some(input), Some(text)) = (child.take_input(), text) {
        let text = text.to_owned();
        tokio::spawn(async move {
            input.send(text.as_bytes()).await;
            input.end().await;
        });
    }
}

/// How a command ended.
struct Ended {
    status: ExitStatus,
    elapsed: Duration,
    cpu: Duration,
}

impl Ended {
    fn event(&self, command: &Command<'_>) -> Event {
        Event::ScriptFinished {
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
        stage: &Stage,
        config: &Config,
        lines: Lines,
        captured: Vec<u8>,
    ) -> Failed {
        let Self { status, elapsed, cpu } = self;
        let untold = command.quiet.then_some(Untold { place: command.place, elapsed, cpu });
        let error = EngineError::Script {
            phase: command.phase.to_owned(),
            script: command.script.to_owned(),
            origin: command.origin.cloned(),
            place: command.place,
            status,
            timeout: time_limit(stage, config).filter(|_| status == ExitStatus::TimedOut),
            tail: lines.tail.into(),
        };
        Failed { error, captured, untold }
    }
}

/// How long a script of a stage may run.
fn time_limit(stage: &Stage, config: &Config) -> Option<Duration> {
    stage.timeout_s.map(|seconds| Duration::from_secs(seconds.into())).or(config.script_timeout)
}

/// The command as the agent takes it.
fn spawn_of(command: &Command<'_>, stage: &Stage, config: &Config) -> Result<Spawn, EngineError> {
    Ok(Spawn {
        argv: command.argv.clone(),
        env: command.env.clone(),
        cwd: command.cwd.to_owned(),
        root: Some(root_of(command.place, stage)?),
        stdin: if command.stdin.is_some() { Stdin::Stream } else { Stdin::Null },
        timeout_ms: time_limit(stage, config)
            .map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        ignore_sync: !config.keep_sync,
        ..Spawn::default()
    })
}

fn stream_of(channel: Channel) -> OutputStream {
    if channel == Channel::Stderr { OutputStream::Stderr } else { OutputStream::Stdout }
}

/// Cuts output into lines and keeps the last of them.
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
