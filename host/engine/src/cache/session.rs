//! The use of the store by one build: the state that it resumes from, and the results that it
//! saves.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use checked::chain;
use machine::OnGuestConnect;
use plan::{Plan, Point, StageKey, Step, stage_inputs};
use session::Session;
use store::{Origin, RECORD_VERSION, Ran, RecordKind, StageRecord};

use super::{
    clock,
    config::Cache,
    connections::Ledger,
    forecast::{self, Forecast},
    policy::{self, Refresh},
    record::Saved,
    recorder::StageRecorder,
    restore,
    snapshot::{self, SnapshotError},
    why::Why,
    writer::{CacheWriter, Job},
};
use crate::{
    Config, EngineError, State,
    disks::Disks,
    events::{Event, SharedObserver, StepKind},
    guest::Guest,
};

/// A stage that has ended, or has reached a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) index: usize,
    /// The time that its steps have taken.
    pub(crate) elapsed: Duration,
}

/// The data for the record of the running stage, collected until its next checkpoint or its end.
#[derive(Debug, Clone, Default)]
struct StageLog {
    connections: Ledger,
    ran: Vec<Ran>,
    log: Vec<u8>,
}

/// The cache of one build.
pub(crate) struct CacheSession {
    cache: Cache,
    observer: SharedObserver,
    recorder: Arc<StageRecorder>,
    forecast: Forecast,
    /// The first stage that always runs. No disks are saved from there on, because no build could
    /// resume after it.
    saved_until: usize,
    /// The build resumes only from stages before this one.
    end: usize,
    writer: CacheWriter,
    /// The number of connections that the guest has opened since a stage or checkpoint was last
    /// saved.
    opened: Arc<AtomicU64>,
    /// The time when the network was first used for the present content of the disks, in seconds
    /// since 1970; `None` if it was not used.
    pub(crate) fetched: Option<u64>,
    /// The shared cache that the present content of the disks came from, if there is one.
    pub(crate) origin: Option<Origin>,
    /// Work since the disks were last saved, up to `since`.
    unsaved: Duration,
    /// The time from which work is not yet counted in `unsaved`.
    since: Instant,
    /// Milliseconds by which the machine's clock is ahead of the host's.
    ahead_ms: i64,
    /// Pause time of the last snapshot, until it is reported.
    paused: Option<Duration>,
    /// The data collected for the running stage, up to its last checkpoint.
    stage_log: StageLog,
}

impl CacheSession {
    /// Opens the cache of a build. `None` if the build has none, or, with a warning, if the cache
    /// cannot be read. Fails if a stage that must be refreshed is not in the plan.
    pub(crate) fn begin(
        plan: &Plan,
        config: &Config,
        recorder: Arc<StageRecorder>,
    ) -> Result<Option<Self>, EngineError> {
        let Some(cache) = config.cache.clone() else { return Ok(None) };
        if let Refresh::From(name) = &cache.rules.refresh
            && plan.stage(name).is_none()
        {
            let names: Vec<&str> = plan.stages.iter().map(|stage| stage.name.as_str()).collect();
            return Err(EngineError::Recipe(format!(
                "there is no stage `{name}` to refresh; there are: {}",
                names.join(", ")
            )));
        }
        let forecast = match forecast::forecast(plan, &cache, SystemTime::now()) {
            Ok(forecast) => forecast,
            Err(error) => {
                let text = format!("the cache cannot be used: {}", chain(&error));
                config.observer.event(&Event::Warning { text });
                return Ok(None);
            }
        };
        let mut started = Self {
            observer: Arc::clone(&config.observer),
            recorder,
            saved_until: policy::first_always(plan).unwrap_or(plan.stages.len()),
            end: plan.stages.len(),
            writer: CacheWriter::start(Arc::clone(&cache.lease), Arc::clone(&config.observer)),
            cache,
            forecast,
            opened: Arc::default(),
            fetched: None,
            origin: None,
            unsaved: Duration::ZERO,
            since: Instant::now(),
            ahead_ms: 0,
            paused: None,
            stage_log: StageLog::default(),
        };
        if let Some(pause) = &config.pause
            && let Some(after) = pause.after
        {
            started.limit(plan, after);
            if let (Some(index), Some(record)) = (after.checked_sub(1), &pause.from) {
                started.forecast.resume = Some((index, record.clone()));
                started.forecast.point = None;
            }
        }
        Ok(Some(started))
    }

    /// Makes the build resume only from stages before `end`.
    fn limit(&mut self, plan: &Plan, end: usize) {
        self.end = end;
        if self.forecast.first() < end {
            return;
        }
        match forecast::forecast_until(plan, &self.cache, SystemTime::now(), end) {
            Ok(forecast) => self.forecast = forecast,
            Err(error) => self.warn(&format!("the cache cannot be read: {}", chain(&error))),
        }
    }

    fn warn(&self, text: &str) {
        self.observer.event(&Event::Warning { text: text.to_owned() });
    }

    /// Returns the first stage that runs.
    pub(crate) fn first(&self) -> usize {
        self.forecast.first()
    }

    /// Returns the script with which the first stage that runs resumes; `None` if that stage runs
    /// from its beginning.
    pub(crate) fn resumes_at(&self) -> Option<&str> {
        self.forecast.point.as_ref().map(|point| point.script.as_str())
    }

    /// Returns the reason why a stage runs, if it is one that the user might not expect.
    pub(crate) fn reason(&self, index: usize) -> Option<&Why> {
        self.forecast.reasons[index].as_ref().filter(|why| {
            matches!(
                why,
                Why::Changed(_)
                    | Why::Expired(_)
                    | Why::Clock
                    | Why::Refresh
                    | Why::Untrusted { .. }
            )
        })
    }

    /// Restores the disks of the last stage or checkpoint that the build can resume from. If a
    /// result is damaged, it is reported and removed from the store, and the next best one is used.
    pub(crate) async fn restore(
        &mut self,
        plan: &Plan,
        files: &mut Disks,
    ) -> Result<Option<Saved>, EngineError> {
        loop {
            let start = match (&self.forecast.point, &self.forecast.resume) {
                (Some(point), _) => Some((point.index, point.record.clone())),
                (None, resume) => resume.clone(),
            };
            let restored = match start.clone() {
                None => Ok(None),
                Some((_, record)) => self.restore_one(plan, record, files).await,
            };
            match (restored, start) {
                (Err(error), Some((index, record))) => {
                    self.warn(&format!("a cached result is not used: {}", chain(&error)));
                    files.clear();
                    // A result that cannot be removed from the store is excluded by `end`.
                    let forgotten = self.cache.lease.forget(&record.key).is_ok();
                    self.forecast_again(plan, if forgotten { self.end } else { index });
                }
                (Ok(state), _) => {
                    self.forget_outdated(plan);
                    return Ok(state);
                }
                (Err(error), None) => return Err(error),
            }
        }
    }

    /// Makes the forecast again, for resuming from a stage before `end`.
    fn forecast_again(&mut self, plan: &Plan, end: usize) {
        let found = forecast::forecast_until(plan, &self.cache, SystemTime::now(), end);
        self.forecast = found.unwrap_or_else(|_| Forecast {
            keys: self.forecast.keys.clone(),
            reasons: vec![Some(Why::NotKept); plan.stages.len()],
            resume: None,
            point: None,
        });
    }

    async fn restore_one(
        &mut self,
        plan: &Plan,
        record: StageRecord,
        files: &mut Disks,
    ) -> Result<Option<Saved>, EngineError> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| EngineError::Host {
            action: "restore the disks of a stage in".into(),
            path: self.cache.lease.store().root().to_owned(),
            source: std::io::Error::other(error),
        };
        let saved = Saved::of_record(&record, &self.cache.surroundings.salt)
            .map_err(|e| unusable(e.into()))?;
        let jobs = restore::jobs(plan, &saved.state, &record, files)
            .map_err(|mismatch| unusable(mismatch.into()))?;
        files.make_directory()?;
        let lease = Arc::clone(&self.cache.lease);
        let restored =
            tokio::task::spawn_blocking(move || restore::run(&lease, &jobs).map(|()| jobs));
        let jobs = restored.await.map_err(|e| unusable(e.into()))?;
        for job in jobs.map_err(|e| unusable(e.into()))? {
            files.restored(&job.name, job.disk.bytes);
        }
        self.fetched = record.fetched;
        self.origin.clone_from(&record.origin);
        if saved.progress.is_some() {
            let mut log = Vec::new();
            if let Some(blob) = &record.log {
                // A lost log is no reason to run the stage again.
                let _ = self.cache.lease.get_blob(blob, &mut log);
            }
            let connections = Ledger::resumed(record.connections, record.more_connections);
            self.stage_log = StageLog { connections, ran: record.ran, log };
        }
        self.writer = CacheWriter::resume(
            Arc::clone(&self.cache.lease),
            record.disks,
            files,
            Arc::clone(&self.observer),
        );
        Ok(Some(saved))
    }

    /// Removes outdated results from the store, from the first stage that runs on. The new results
    /// have the same keys, but another content.
    fn forget_outdated(&self, plan: &Plan) {
        if !self.forecast.outdated() {
            return;
        }
        let outputs = StageKey::of_outputs(plan, &self.cache.surroundings);
        let within = (self.first()..plan.stages.len())
            .flat_map(|index| self.forecast.points(plan, &self.cache, index))
            .map(|(_, key)| key);
        let keys = self.forecast.keys[self.first()..].iter().copied();
        for key in keys.chain(within).chain([outputs]) {
            if let Err(error) = self.cache.lease.forget(&key.0) {
                self.warn(&format!("an outdated result stays: {}", chain(&error)));
            }
        }
    }

    /// Wraps the function that decides about connections in one that also counts them.
    pub(crate) fn counted(&self, connect_egress: OnGuestConnect) -> OnGuestConnect {
        let opened = Arc::clone(&self.opened);
        Arc::new(move |connect| {
            opened.fetch_add(1, Ordering::Relaxed);
            connect_egress(connect)
        })
    }

    /// Puts a layer on each disk whose topmost file has been saved, before the guest writes to it.
    pub(crate) async fn protect(&self, plan: &Plan, session: &Session, files: &mut Disks) {
        if self.writer.has_failed() {
            return;
        }
        let pushed = snapshot::push(plan, session, files, Disks::needs_layer).await;
        if let Err(error) = pushed {
            self.writer.give_up();
            self.warn(&format!("the results of this build are not kept: {}", chain(&error)));
        }
    }

    /// Measures the difference between the clocks of a fresh machine and the host.
    pub(crate) async fn compare_clocks(&mut self, session: &Session) {
        self.ahead_ms = clock::ahead_ms(session).await.unwrap_or(self.ahead_ms);
    }

    /// Saves a stage that has ended: its record in any case, and its disks if the policy
    /// says so.
    pub(crate) async fn save_stage(
        &mut self,
        stage: Ended<'_>,
        guest: &Guest,
        state: &State,
        files: &mut Disks,
    ) -> Result<(), EngineError> {
        let Ended { plan, index, .. } = stage;
        self.count_work();
        self.note_network();
        if self.writer.has_failed() {
            return Ok(());
        }
        let worth = index < self.saved_until
            && policy::saves_stage(&plan.stages[index], self.unsaved, files.longest_chain());
        let finished = if worth { self.snapshot(plan, guest, files).await? } else { None };
        let saved = Saved { state: state.clone(), progress: None };
        self.drain_events();
        let StageLog { connections, ran, log } = std::mem::take(&mut self.stage_log);
        let Ledger { connections, more: more_connections, .. } = connections;
        if let Some(known) = self.record(stage, self.forecast.keys[index], &saved) {
            let record = StageRecord { connections, more_connections, ran, ..known };
            self.writer.save(Job { record, log, finished });
        }
        self.report_pause();
        Ok(())
    }

    /// Reports how long the last snapshot paused the guest.
    fn report_pause(&mut self) {
        if let Some(elapsed) = self.paused.take() {
            let title = "keep the disks".to_owned();
            self.observer.event(&Event::StepFinished {
                kind: StepKind::DisksSaved,
                title,
                elapsed,
            });
        }
    }

    /// Records the time if the guest has used the network since the last call.
    fn note_network(&mut self) {
        if self.opened.swap(0, Ordering::Relaxed) > 0 {
            let now = seconds();
            self.fetched = Some(self.fetched.map_or(now, |before| before.min(now)));
        }
    }

    /// Starts to measure work from now on.
    pub(crate) fn begin_work(&mut self) {
        self.since = Instant::now();
    }

    /// Adds the time since the last call to the unsaved work.
    fn count_work(&mut self) {
        self.unsaved += self.since.elapsed();
        self.begin_work();
    }

    /// Whether a checkpoint must be taken now, between two scripts.
    pub(crate) fn wants_checkpoint(&mut self, index: usize, files: &Disks) -> bool {
        self.count_work();
        index < self.saved_until
            && policy::saves_checkpoint(self.unsaved, files.longest_chain())
            && !self.writer.has_failed()
    }

    /// Saves a checkpoint between two scripts of a stage: a record with the disks.
    pub(crate) async fn save_checkpoint(
        &mut self,
        stage: Ended<'_>,
        saved: &Saved,
        guest: &Guest,
        files: &mut Disks,
    ) -> Result<(), EngineError> {
        self.note_network();
        let Ended { plan, index, .. } = stage;
        let Some(key) = self.key_within(plan, index, saved) else { return Ok(()) };
        let Some(finished) = self.snapshot(plan, guest, files).await? else { return Ok(()) };
        self.drain_events();
        let StageLog { connections, ran, log } = self.stage_log.clone();
        let Ledger { connections, more: more_connections, .. } = connections;
        if let Some(known) = self.record(stage, key, saved) {
            let kind = RecordKind::Point;
            let record = StageRecord { kind, connections, more_connections, ran, ..known };
            self.writer.save(Job { record, log, finished: Some(finished) });
        }
        self.report_pause();
        Ok(())
    }

    /// Collects the connections, the scripts and the log of the stage since the last call.
    fn drain_events(&mut self) {
        self.stage_log.connections.extend(self.cache.connections.take());
        self.stage_log.ran.extend(self.recorder.take_ran(self.ahead_ms));
        self.stage_log.log.extend(self.recorder.take_log());
    }

    /// Returns the key of the checkpoint that a stage has reached.
    fn key_within(&self, plan: &Plan, index: usize, saved: &Saved) -> Option<StageKey> {
        let progress = saved.progress.as_ref()?;
        let Some(Step::RunParts(parts)) = plan.stages[index].steps.get(progress.step) else {
            return None;
        };
        let here = Point { step: progress.step, scripts: progress.phase.scripts.in_place(parts) };
        let points = self.forecast.points(plan, &self.cache, index);
        points.into_iter().find(|(point, _)| *point == here).map(|(_, key)| key)
    }

    /// Creates the record of a stage or checkpoint without its disks and log, which the writer
    /// adds. `None` if its values cannot be sealed.
    fn record(&self, ended: Ended<'_>, key: StageKey, saved: &Saved) -> Option<StageRecord> {
        let Ended { plan, index, elapsed } = ended;
        let stage = &plan.stages[index];
        let inputs = stage_inputs(plan, stage, &self.cache.surroundings);
        Some(StageRecord {
            version: RECORD_VERSION,
            key: key.0,
            parent: index.checked_sub(1).map(|before| self.forecast.keys[before].0),
            build: plan.name.as_str().into(),
            kind: RecordKind::Stage,
            name: forecast::name_of(stage),
            created: seconds(),
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            disks: BTreeMap::new(),
            state: saved.to_record(&self.cache.surroundings.salt, key)?,
            inputs,
            fetched: self.fetched,
            connections: Vec::new(),
            more_connections: 0,
            ran: Vec::new(),
            log: None,
            files: Vec::new(),
            origin: self.origin.clone(),
        })
    }

    async fn snapshot(
        &mut self,
        plan: &Plan,
        guest: &Guest,
        files: &mut Disks,
    ) -> Result<Option<Vec<crate::disks::Finished>>, EngineError> {
        match snapshot::take(plan, guest, files).await {
            Ok(paused) => {
                // The pause does not count as work.
                self.paused = Some(paused);
                self.unsaved = Duration::ZERO;
                self.begin_work();
                Ok(Some(files.finished()))
            }
            Err(SnapshotError::Quiesce(error)) => {
                tracing::debug!(error = chain(&error), "no snapshot");
                Ok(None)
            }
            Err(SnapshotError::Layer(error)) => {
                self.writer.give_up();
                self.warn(&format!("the results of this build are not kept: {}", chain(&error)));
                Ok(None)
            }
            Err(SnapshotError::Thaw(source)) => {
                Err(EngineError::Prepare { action: "go on after a snapshot".into(), source })
            }
        }
    }
}

/// Returns the seconds since 1970.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
