//! Starts a machine from its specification, and waits for its agent under a deadline.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use machine::{Backend, Machine, MachineSpec, Start};
use tokio::net::UnixStream;
use wire::{AGENT_PORT, ENTROPY_BYTES, PROTOCOL_VERSION, Reply, Request};

use crate::{Hello, Incoming, Session, SessionError, connection::Connection};

/// Time limit for a guest to unmount its filesystems and power off.
pub(crate) const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(120);
/// Pause between two attempts to reach an agent that does not listen yet. It is short compared with
/// a boot (100 ms at best), and long compared with the cost of an attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// Time limit of one attempt to reach the agent: while the guest's driver starts, it may leave a
/// connection without an answer.
const ATTEMPT_DEADLINE: Duration = Duration::from_millis(1500);

/// Time limit for learning how a machine ended, after its devices are gone.
const END_GRACE: Duration = Duration::from_secs(2);

/// Options for starting a machine and waiting for its agent.
#[derive(Debug, Clone)]
pub struct BootOptions {
    /// Time limit for the agent's hello, in each attempt.
    pub deadline: Duration,
    /// Maximum number of attempts to start a guest that stays silent. Nothing is written to its
    /// disks before the hello, so another attempt costs only time.
    pub attempts: u32,
}

impl Default for BootOptions {
    fn default() -> Self {
        // A boot by TCG on a loaded host was seen to take 8 s. If it takes many times as long, the
        // kernel has lost its clock or an interrupt. This is rare, happens only under TCG, and was
        // never seen twice in a row.
        Self { deadline: Duration::from_secs(60), attempts: 3 }
    }
}

/// Starts a machine and waits for its agent.
///
/// # Errors
/// Fails if the backend cannot start the machine, if the guest ends before its hello or stays
/// silent in every attempt (then the error has the tail of its console output), or if the agent has
/// another protocol version.
pub async fn boot(
    backend: &dyn Backend,
    spec: MachineSpec,
    options: &BootOptions,
) -> Result<Session, SessionError> {
    let mut attempt = 1;
    loop {
        match boot_once(backend, spec.clone(), options).await {
            Err(SessionError::BootTimeout { console_tail, .. }) if attempt < options.attempts => {
                tracing::warn!(attempt, console = console_tail, "the guest stays silent");
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn boot_once(
    backend: &dyn Backend,
    spec: MachineSpec,
    options: &BootOptions,
) -> Result<Session, SessionError> {
    let started = Instant::now();
    let restored = matches!(spec.start, Start::Restore(_));
    let machine: Arc<dyn Machine> = Arc::from(backend.start(spec).await?);
    let outcome = tokio::select! {
        session = reach_agent(&machine, started, restored) => match session {
            Err(error) => Err(rather_the_end(&machine, error).await),
            session => session,
        },
        reason = machine.wait() => Err(SessionError::Lost {
            reason,
            console_tail: machine.console_tail(),
        }),
        () = tokio::time::sleep(options.deadline) => Err(SessionError::BootTimeout {
            seconds: options.deadline.as_secs(),
            console_tail: machine.console_tail(),
        }),
    };
    if outcome.is_err() {
        machine.kill().await;
    }
    outcome
}

/// Waits briefly for the end of the machine, and returns its reason, or else the error. A machine
/// that ends loses its devices first, so an error of a device does not explain the failure.
async fn rather_the_end(machine: &Arc<dyn Machine>, error: SessionError) -> SessionError {
    match tokio::time::timeout(END_GRACE, machine.wait()).await {
        Ok(reason) => SessionError::Lost { reason, console_tail: machine.console_tail() },
        Err(_) => error,
    }
}

async fn reach_agent(
    machine: &Arc<dyn Machine>,
    started: Instant,
    restored: bool,
) -> Result<Session, SessionError> {
    loop {
        match tokio::time::timeout(ATTEMPT_DEADLINE, attempt(machine, started, restored)).await {
            Ok(Ok(Some(session))) => return Ok(session),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(None)) | Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// Tries once to connect to the agent; `None` if it does not listen yet.
async fn attempt(
    machine: &Arc<dyn Machine>,
    started: Instant,
    restored: bool,
) -> Result<Option<Session>, SessionError> {
    let socket = machine.connect(AGENT_PORT).await?;
    let io = |source| SessionError::Io { action: "connect to the guest agent".into(), source };
    socket.set_nonblocking(true).map_err(io)?;
    let socket = UnixStream::from_std(socket).map_err(io)?;
    let connection = Arc::new(Connection::new(socket, Arc::clone(machine)));
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut entropy = [0; ENTROPY_BYTES];
    getrandom::fill(&mut entropy).map_err(|cause| io(cause.into()))?;
    let hello = Request::Hello {
        entropy,
        version: PROTOCOL_VERSION,
        clock_unix_ns: u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX),
    };
    let Some(mut stream) = connection.try_open(&hello).await? else { return Ok(None) };
    match stream.try_next().await {
        None => Ok(None),
        Some(Incoming::Reply(Reply::Hello { version, kernel, uptime_us })) => {
            if version != PROTOCOL_VERSION {
                return Err(SessionError::Version { agent: version, host: PROTOCOL_VERSION });
            }
            let hello = Arc::new(Hello { kernel, uptime_us, boot: started.elapsed(), restored });
            drop(stream);
            Ok(Some(Session { connection, machine: Arc::clone(machine), hello }))
        }
        Some(Incoming::Reply(Reply::Failed(failure))) => Err(SessionError::Guest(failure)),
        Some(other) => Err(SessionError::Frame(wire::FrameError::Protocol(format!(
            "{other:?} in answer to the hello"
        )))),
    }
}
