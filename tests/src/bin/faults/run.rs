//! Runs vbuild and follows its log.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{draw::Moment, recipe::Site};

/// Time limit of a build. Every build takes less than a tenth of it on an idle machine; the rest is
/// for busy ones.
const BUILD_LIMIT: Duration = Duration::from_secs(900);
/// Interval between reads of the log.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// The duration and log length of an undisturbed build.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    lines: usize,
    time: Duration,
}

/// A running build.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
    started: Instant,
    log: PathBuf,
    read: u64,
    lines: usize,
    said: PathBuf,
}

/// A finished build.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// The text that the build wrote to standard output and standard error.
    pub(crate) said: String,
    pub(crate) pace: Pace,
}

impl Run {
    /// Starts a build.
    pub(crate) fn start(mut command: Command, site: &Site) -> Result<Self> {
        let log = site.log();
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let said = site.folder.join("said");
        let file = File::create(&said)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { child, started: Instant::now(), log, read: 0, lines: 0, said })
    }

    /// Returns the process id of vbuild.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Reads new lines of the log.
    fn look(&mut self) -> Result<()> {
        let Ok(mut file) = File::open(&self.log) else { return Ok(()) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut more = Vec::new();
        file.read_to_end(&mut more)?;
        self.read += more.len() as u64;
        self.lines += more.iter().filter(|byte| **byte == b'\n').count();
        Ok(())
    }

    /// Whether the build has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for a moment and describes it; `None` if the build ended first.
    pub(crate) fn reach(&mut self, moment: Moment, pace: Pace) -> Result<Option<String>> {
        match moment {
            Moment::Line { part, delay_ms } => {
                let line = share(pace.lines, part);
                if !self.wait_for(|run| run.lines >= line)? {
                    return Ok(None);
                }
                let until = Instant::now() + Duration::from_millis(delay_ms);
                let reached = self.wait_for(|_| Instant::now() >= until)?;
                Ok(reached.then(|| format!("{delay_ms} ms after line {}", self.lines)))
            }
            Moment::Time { part } => {
                let until = self.started + pace.time.mul_f64(part);
                let reached = self.wait_for(|_| Instant::now() >= until)?;
                Ok(reached.then(|| format!("line {}", self.lines)))
            }
        }
    }

    /// Waits until a condition is true. Returns whether this happened before the end of the build.
    pub(crate) fn wait_for(&mut self, mut so: impl FnMut(&mut Self) -> bool) -> Result<bool> {
        loop {
            self.look()?;
            if so(self) {
                return Ok(!self.has_ended()?);
            }
            if self.has_ended()? {
                return Ok(false);
            }
            self.check_limit()?;
            std::thread::sleep(LOOK_PERIOD);
        }
    }

    fn check_limit(&mut self) -> Result<()> {
        if self.started.elapsed() > BUILD_LIMIT {
            let _ = self.child.kill();
            let _ = self.child.wait();
            let said = fs::read_to_string(&self.said).unwrap_or_default();
            bail!("it did not end within {} s: {said}", BUILD_LIMIT.as_secs());
        }
        Ok(())
    }

    /// Waits for the end of the build.
    pub(crate) fn finish(mut self) -> Result<Ended> {
        self.wait_for(|_| false)?;
        let status = self.child.wait()?;
        self.look()?;
        let said = String::from_utf8_lossy(&fs::read(&self.said)?).into_owned();
        let pace = Pace { lines: self.lines, time: self.started.elapsed() };
        Ok(Ended { status, said, pace })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "some hundred lines"
)]
fn share(lines: usize, part: f64) -> usize {
    (lines as f64 * part) as usize
}
