//! The environment of every verb with a machine: the asynchronous runtime, the signals and the
//! output to the user.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use engine::events::SharedObserver;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
    ui::{self, Console, Ui, Verbosity},
};

/// How long to wait for threads whose result is no longer needed.
const GIVEN_UP_LIMIT: Duration = Duration::from_secs(1);

/// The number of threads with work that cannot be interrupted.
static DEAF: AtomicUsize = AtomicUsize::new(0);

/// Runs blocking work that cannot be interrupted, such as a download. Until it returns, a signal
/// ends the process at once: no machine runs yet that would have to be shut down, and the next run
/// removes what the work has left.
///
/// # Errors
/// Fails if a signal came before the work, or if the work fails.
pub(crate) fn until_signalled<T>(
    ctx: &RunContext,
    work: impl FnOnce() -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    struct Deaf;
    impl Drop for Deaf {
        fn drop(&mut self) {
            DEAF.fetch_sub(1, Ordering::SeqCst);
        }
    }
    // First count, then look at the signal; the signal handler uses the reverse order. So at least
    // one of the two sees what the other has done.
    DEAF.fetch_add(1, Ordering::SeqCst);
    let _deaf = Deaf;
    if *ctx.cancel.borrow() {
        return Err(stopped());
    }
    work()
}

/// Returns the error of work that a signal has stopped.
pub(crate) fn stopped() -> CommandError {
    CommandError::message(Kind::Interrupted, "the build was stopped")
}

/// Runs asynchronous work, and shows its progress and its errors to the user. The first SIGINT,
/// SIGTERM or SIGHUP asks the work to stop; the second ends the process.
///
/// # Errors
/// Fails if the work fails; the user has seen the error then.
pub(crate) fn run<T>(
    ui: &Arc<Ui>,
    work: impl AsyncFnOnce(RunContext) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let outcome = runtime().and_then(|runtime| {
        let outcome = runtime.block_on(async {
            let (cancel, cancelled) = watch::channel(false);
            let signals = tokio::spawn(stop_on_signals(cancel, Arc::clone(ui))?);
            let observer: SharedObserver = ui.clone();
            let outcome = work(RunContext { observer, cancel: cancelled }).await;
            signals.abort();
            outcome
        });
        // A download that was given up cannot be stopped; it ends with the process.
        runtime.shutdown_timeout(GIVEN_UP_LIMIT);
        outcome
    });
    match &outcome {
        Ok(_) => ui.succeeded(),
        Err(error) => ui.failed(error),
    }
    outcome.map_err(|error| CommandError { told: true, ..error })
}

/// Same as [`run`], for builds: a failed build is tried again if the user asks for it in the shell
/// of the failed machine. Each attempt must read its recipe again, because the user may have
/// corrected it.
///
/// # Errors
/// Fails if the last attempt fails; the user has seen the error then.
pub(crate) fn run_attempts(
    ui: &Arc<Ui>,
    mut attempt: impl AsyncFnMut(&RunContext) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    run(ui, async |ctx| {
        loop {
            match attempt(&ctx).await {
                Err(error) if error.retry => ctx.say("trying again"),
                outcome => return outcome,
            }
        }
    })
}

/// Same as [`run`], for verbs whose answer is their output: only warnings and errors are shown, and
/// nothing is logged.
///
/// # Errors
/// Fails if the work fails; the user has seen the error then.
pub(crate) fn quietly<T>(
    console: &Console,
    work: impl AsyncFnOnce(RunContext) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let settings = ui::Settings {
        verbosity: Verbosity { quiet: true, output: false, debug: 0, wrap: false },
        colours: false,
        log: None,
        json: None,
    };
    run(&Arc::new(Ui::open(&settings, console)?), work)
}

/// Creates the threads of a run.
///
/// # Errors
/// Fails if the host cannot start them.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CommandError> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        CommandError::new(Kind::Host, error)
            .context("failed to start the threads that vbuild needs")
    })
}

/// Takes over the signals at once; the future waits for them.
fn stop_on_signals(
    cancel: watch::Sender<bool>,
    ui: Arc<Ui>,
) -> Result<impl Future<Output = ()>, CommandError> {
    let take = |kind| {
        signal(kind).map_err(|error| {
            CommandError::new(Kind::Host, error).context("failed to take over signals")
        })
    };
    let mut interrupt = take(SignalKind::interrupt())?;
    let mut terminate = take(SignalKind::terminate())?;
    let mut hangup = take(SignalKind::hangup())?;
    Ok(async move {
        let mut name = "";
        for repeated in [false, true] {
            name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => "SIGHUP",
            };
            if !repeated {
                // If the work is already done, there is no receiver any more.
                let _ = cancel.send(true);
                if DEAF.load(Ordering::SeqCst) > 0 {
                    break;
                }
                ui.warning(format!("{name}: stopping; once more to stop at once"));
            }
        }
        let error = CommandError::message(Kind::Interrupted, format!("stopped by {name}"));
        ui.failed(&error);
        crate::error::exit_now(error.kind);
    })
}
