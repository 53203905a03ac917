//! The user's view of one run: all renderers, as one observer of its events.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use engine::events::{Event, Observer};

use super::{
    complaint::Complaint,
    console::Console,
    failure::FailureWatch,
    json, live, log, plain,
    render::{Render, Stamp, Verbosity},
    text::Palette,
    timeline::Timeline,
};
use crate::{
    cli::{MachineReadable, OutputArgs},
    error::{CommandError, Kind},
};

/// The settings for what is shown, and where.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// How much is shown.
    pub(crate) verbosity: Verbosity,
    /// Whether to use colours even if the output is not a terminal.
    pub(crate) colours: bool,
    /// The path of the log: `--logfile`, else a file in the cache.
    pub(crate) log: Option<PathBuf>,
    /// The channel for JSON lines.
    pub(crate) json: Option<MachineReadable>,
}

impl Settings {
    /// Creates the settings from the options; `default_log` is used if `--logfile` is not given.
    pub(crate) fn of(args: &OutputArgs, default_log: Option<PathBuf>) -> Self {
        Self {
            verbosity: Verbosity {
                quiet: args.view.quiet,
                output: args.view.verbose,
                debug: args.view.debug,
                wrap: args.view.wrap,
            },
            colours: args.view.colours,
            log: args.logfile.clone().or(default_log),
            json: args.machine_readable.clone(),
        }
    }
}

/// The renderers of one build, as an observer of its events.
pub(crate) struct Ui {
    started: Instant,
    log: Option<PathBuf>,
    inner: Mutex<Inner>,
}

struct Inner {
    renderers: Vec<Box<dyn Render>>,
    timeline: Timeline,
    failure: FailureWatch,
    ended: bool,
}

impl fmt::Debug for Ui {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ui").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Ui {
    /// Creates the view, and opens the log and the channel that the settings name.
    ///
    /// # Errors
    /// Fails if the log or the channel cannot be opened.
    pub(crate) fn open(settings: &Settings, console: &Console) -> Result<Self, CommandError> {
        let mut renderers: Vec<Box<dyn Render>> = Vec::new();
        let stdout_is_json =
            matches!(settings.json, Some(MachineReadable::Plain | MachineReadable::Stdout));
        let terminal = console.stdout_is_terminal && console.stderr_is_terminal;
        let palette =
            |is_terminal| Palette { on: settings.colours || (is_terminal && console.colours) };
        let mut verbosity = settings.verbosity;
        verbosity.wrap |= console.stdout_is_terminal;
        if terminal && !verbosity.quiet && !stdout_is_json {
            renderers.push(Box::new(live::Live::new(verbosity, palette(true))));
        } else {
            // Programs cannot parse JSON lines that are mixed with other lines.
            verbosity.quiet |= stdout_is_json;
            verbosity.output &= !stdout_is_json;
            renderers.push(Box::new(plain::Plain {
                out: io::stdout(),
                err: io::stderr(),
                verbosity,
                out_palette: palette(console.stdout_is_terminal),
                err_palette: palette(console.stderr_is_terminal),
            }));
        }
        if let Some(path) = &settings.log {
            renderers.push(Box::new(log::Log::new(create_log(path)?)));
        }
        if let Some(channel) = &settings.json {
            let out = open_channel(channel)?;
            renderers.push(Box::new(json::Json { out, output: settings.verbosity.output }));
        }
        Ok(Self::with(renderers, settings.log.clone()))
    }

    fn with(renderers: Vec<Box<dyn Render>>, log: Option<PathBuf>) -> Self {
        Self {
            started: Instant::now(),
            log,
            inner: Mutex::new(Inner {
                renderers,
                timeline: Timeline::default(),
                failure: FailureWatch::default(),
                ended: false,
            }),
        }
    }

    /// Shows a remark to the user.
    pub(crate) fn message(&self, text: impl Into<String>) {
        self.event(&Event::Message { text: text.into() });
    }

    /// Shows a warning to the user.
    pub(crate) fn warning(&self, text: impl Into<String>) {
        self.event(&Event::Warning { text: text.into() });
    }

    /// Ends a successful build with the closing timeline. To be called once, last.
    pub(crate) fn succeeded(&self) {
        let stamp = self.stamp();
        let mut inner = self.lock();
        let lines = inner.timeline.lines(stamp.elapsed);
        inner.end(|renderer| renderer.closing(&stamp, &lines));
    }

    /// Ends a failed build with the error: its causes, the script that failed, and hints.
    pub(crate) fn failed(&self, error: &CommandError) {
        let stamp = self.stamp();
        let mut inner = self.lock();
        // A wrong option or a missing program is unrelated to the script that ran last.
        let about_script =
            matches!(error.kind, Kind::Build | Kind::ExtraData { .. } | Kind::Interrupted);
        let complaint = Complaint {
            failure: inner.failure.failure().filter(|_| about_script),
            log: self.log.clone().filter(|_| about_script),
            ..Complaint::of(error)
        };
        inner.end(|renderer| renderer.failed(&stamp, &complaint));
    }

    fn stamp(&self) -> Stamp {
        Stamp { elapsed: self.started.elapsed(), wall: SystemTime::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of a renderer leaves no inconsistent state that matters.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn end(&mut self, last: impl Fn(&mut dyn Render)) {
        if !std::mem::replace(&mut self.ended, true) {
            for renderer in &mut self.renderers {
                last(renderer.as_mut());
            }
        }
    }
}

impl Observer for Ui {
    fn event(&self, event: &Event) {
        let stamp = self.stamp();
        let mut inner = self.lock();
        if inner.ended {
            return;
        }
        inner.timeline.event(event);
        inner.failure.event(event);
        for renderer in &mut inner.renderers {
            renderer.event(&stamp, event);
        }
    }
}

fn create_log(path: &Path) -> Result<io::BufWriter<File>, CommandError> {
    let what = || format!("failed to create the log `{}`", path.display());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        rooted::make_user_directories(folder)
            .map_err(|error| CommandError::new(Kind::Usage, error).context(what()))?;
    }
    rooted::create_private(path).map(io::BufWriter::new).map_err(|error| {
        let hint = error.hint();
        CommandError::new(Kind::Usage, error).context(what()).maybe_hint(hint)
    })
}

/// Creates a file for other programs of the user, with the mode that the user's umask permits.
fn create_output(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    if file.metadata()?.is_file() {
        rooted::allow_user_mode(&file, 0o666)?;
    }
    Ok(file)
}

pub(crate) fn open_channel(
    channel: &MachineReadable,
) -> Result<Box<dyn Write + Send>, CommandError> {
    let append = |path: &Path| OpenOptions::new().append(true).create(true).open(path);
    Ok(match channel {
        MachineReadable::Plain | MachineReadable::Stdout => Box::new(io::stdout()),
        MachineReadable::Stderr => Box::new(io::stderr()),
        MachineReadable::File(path) => Box::new(create_output(path).map_err(|error| {
            CommandError::new(Kind::Usage, error)
                .context(format!("failed to create `{}`", path.display()))
        })?),
        // The descriptor is opened again by its name. Adopting it would require a guarantee that
        // nothing else in the process uses it.
        MachineReadable::Fd(fd) => {
            let name = PathBuf::from(format!("/proc/self/fd/{fd}"));
            let file = OpenOptions::new().write(true).open(&name).or_else(|_| append(&name));
            Box::new(file.map_err(|error| {
                CommandError::new(Kind::Usage, error)
                    .context(format!("invalid output fd for --machine-readable: {fd}"))
                    .hint("the descriptor must be open for writing to a file or a pipe")
            })?)
        }
    })
}

#[cfg(test)]
mod tests;
