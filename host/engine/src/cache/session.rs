//! One build's use of the store: what it starts from, and what it leaves.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

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
    recorder::Tape,
    restore,
    snapshot::{self, Failure},
    why::Why,
    writer::{Job, Keeper, chain},
};
use crate::{
    Config, EngineError, State,
    disks::Disks,
    events::{Event, SharedObserver},
    guest::Guest,
};

/// A stage that has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) index: usize,
    /// How long its steps took.
    pub(crate) elapsed: Duration,
}

/// What is told of a stage that is on its way.
#[derive(Debug, Clone, Default)]
struct Told {
    connections: Ledger,
    ran: Vec<Ran>,
    log: Vec<u8>,
}

/// What a build knows about its cache.
pub(crate) struct Caching {
    cache: Cache,
    observer: SharedObserver,
    tape: Arc<Tape>,
    forecast: Forecast,
    /// The first stage that always runs: nothing behind it is kept, because
    /// nothing could go on from there.
    last_kept: usize,
    /// Nothing goes on from a stage at or behind this one.
    end: usize,
    keeper: Keeper,
    /// Connections that the guest has opened since the last stage ended.
    opened: Arc<AtomicU64>,
    /// When the network was first used for what is on the disks now.
    pub(crate) fetched: Option<u64>,
    /// The shared cache that what is on the disks now began with.
    pub(crate) origin: Option<Origin>,
    /// Work since the disks were kept, as far as it is counted.
    unkept: Duration,
    /// Since when it is not counted.
    since: Instant,
    /// How far the clock of the machine is ahead of the host's.
    ahead_ms: i64,
    /// How long the guest stood still, until that is told.
    still: Option<Duration>,
    /// Of the stage that runs, up to the last point in it.
    told: Told,
}

impl Caching {
    /// Begins; `None` when the build has no cache, or it cannot be read, which
    /// is told.
    pub(crate) fn begin(
        plan: &Plan,
        config: &Config,
        tape: Arc<Tape>,
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
        let mut caching = Self {
            observer: Arc::clone(&config.observer),
            tape,
            last_kept: policy::first_always(plan).unwrap_or(plan.stages.len()),
            end: plan.stages.len(),
            keeper: Keeper::start(Arc::clone(&cache.session), Arc::clone(&config.observer)),
            cache,
            forecast,
            opened: Arc::default(),
            fetched: None,
            origin: None,
            unkept: Duration::ZERO,
            since: Instant::now(),
            ahead_ms: 0,
            still: None,
            told: Told::default(),
        };
        if let Some(visit) = &config.visit
            && let Some(after) = visit.after
        {
            caching.limit(plan, after);
            if let (Some(index), Some(record)) = (after.checked_sub(1), &visit.from) {
                caching.forecast.resume = Some((index, record.clone()));
                caching.forecast.point = None;
            }
        }
        Ok(Some(caching))
    }

    /// Goes on from no stage at or behind this one.
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

    /// The first stage that runs.
    pub(crate) fn first(&self) -> usize {
        self.forecast.first()
    }

    /// The script with which the first stage that runs goes on.
    pub(crate) fn goes_on_at(&self) -> Option<&str> {
        self.forecast.point.as_ref().map(|point| point.script.as_str())
    }

    /// Why a stage runs, when that is worth a word.
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

    /// Restores the disks of the last stage that need not run. A damaged layer
    /// is told, and the search begins anew without it.
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
                    // If it cannot be forgotten, it is not used all the same.
                    let forgotten = self.cache.session.forget(&record.key).is_ok();
                    self.forecast_anew(plan, if forgotten { self.end } else { index });
                }
                (Ok(state), _) => {
                    self.forget_outdated(plan);
                    return Ok(state);
                }
                (Err(error), None) => return Err(error),
            }
        }
    }

    /// Looks into the store again, for what is before a stage.
    fn forecast_anew(&mut self, plan: &Plan, end: usize) {
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
            path: self.cache.session.store().root().to_owned(),
            source: std::io::Error::other(error),
        };
        let saved = Saved::of_record(&record, &self.cache.surroundings.salt)
            .map_err(|e| unusable(e.into()))?;
        let jobs = restore::jobs(plan, &saved.state, &record, files)
            .map_err(|mismatch| unusable(mismatch.into()))?;
        files.make_directory()?;
        let session = Arc::clone(&self.cache.session);
        let restored =
            tokio::task::spawn_blocking(move || restore::run(&session, &jobs).map(|()| jobs));
        let jobs = restored.await.map_err(|e| unusable(e.into()))?;
        for job in jobs.map_err(|e| unusable(e.into()))? {
            files.restored(&job.name, job.disk.bytes);
        }
        self.fetched = record.fetched;
        self.origin.clone_from(&record.origin);
        if saved.progress.is_some() {
            let mut log = Vec::new();
            if let Some(blob) = &record.log {
                // A log that is lost is no reason to build anew.
                let _ = self.cache.session.get_blob(blob, &mut log);
            }
            let connections = Ledger::resumed(record.connections, record.more_connections);
            self.told = Told { connections, ran: record.ran, log };
        }
        self.keeper = Keeper::resume(
            Arc::clone(&self.cache.session),
            record.disks,
            files,
            Arc::clone(&self.observer),
        );
        Ok(Some(saved))
    }

    /// What follows a stage that is refreshed has the same key as before, but
    /// not the same content: it must not be found again.
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
            if let Err(error) = self.cache.session.forget(&key.0) {
                self.warn(&format!("an outdated result stays: {}", chain(&error)));
            }
        }
    }

    /// Counts the connections that a door leads to.
    pub(crate) fn counted(&self, door: OnGuestConnect) -> OnGuestConnect {
        let opened = Arc::clone(&self.opened);
        Arc::new(move |connect| {
            opened.fetch_add(1, Ordering::Relaxed);
            door(connect)
        })
    }

    /// Before the guest writes: files that are kept get a layer over them.
    pub(crate) async fn protect(&self, plan: &Plan, session: &Session, files: &mut Disks) {
        if self.keeper.has_failed() {
            return;
        }
        let pushed = snapshot::push(plan, session, files, Disks::needs_layer).await;
        if let Err(error) = pushed {
            self.keeper.give_up();
            self.warn(&format!("the results of this build are not kept: {}", chain(&error)));
        }
    }

    /// Compares the clock of a fresh machine with the host's.
    pub(crate) async fn compare_clocks(&mut self, session: &Session) {
        self.ahead_ms = clock::ahead_ms(session).await.unwrap_or(self.ahead_ms);
    }

    /// A stage has ended: keeps its disks if that is worth it, and what is known
    /// about it in any case.
    pub(crate) async fn ended(
        &mut self,
        stage: Ended<'_>,
        guest: &Guest,
        state: &State,
        files: &mut Disks,
    ) -> Result<(), EngineError> {
        let Ended { plan, index, .. } = stage;
        self.count_work();
        self.note_network();
        if self.keeper.has_failed() {
            return Ok(());
        }
        let worth = index < self.last_kept
            && policy::saves_stage(&plan.stages[index], self.unkept, files.longest_chain());
        let finished = if worth { self.snapshot(plan, guest, files).await? } else { None };
        let saved = Saved { state: state.clone(), progress: None };
        self.listen();
        let Told { connections, ran, log } = std::mem::take(&mut self.told);
        let Ledger { connections, more: more_connections, .. } = connections;
        if let Some(known) = self.record(stage, self.forecast.keys[index], &saved) {
            let record = StageRecord { connections, more_connections, ran, ..known };
            self.keeper.keep(Job { record, log, finished });
        }
        self.tell_still();
        Ok(())
    }

    /// Tells how long the guest stood still for the last snapshot.
    fn tell_still(&mut self) {
        if let Some(elapsed) = self.still.take() {
            let title = "keep the disks".to_owned();
            self.observer.event(&Event::StepFinished { title, elapsed });
        }
    }

    /// The network has been used by now, or not.
    fn note_network(&mut self) {
        if self.opened.swap(0, Ordering::Relaxed) > 0 {
            let now = seconds();
            self.fetched = Some(self.fetched.map_or(now, |before| before.min(now)));
        }
    }

    /// Work begins, or goes on.
    pub(crate) fn begin_work(&mut self) {
        self.since = Instant::now();
    }

    /// Counts the work since that was asked before.
    fn count_work(&mut self) {
        self.unkept += self.since.elapsed();
        self.begin_work();
    }

    /// Whether the disks shall be kept between two scripts.
    pub(crate) fn wants_point(&mut self, index: usize, files: &Disks) -> bool {
        self.count_work();
        index < self.last_kept
            && policy::saves_checkpoint(self.unkept, files.longest_chain())
            && !self.keeper.has_failed()
    }

    /// Keeps the disks between two scripts of a stage.
    pub(crate) async fn point(
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
        self.listen();
        let Told { connections, ran, log } = self.told.clone();
        let Ledger { connections, more: more_connections, .. } = connections;
        if let Some(known) = self.record(stage, key, saved) {
            let kind = RecordKind::Point;
            let record = StageRecord { kind, connections, more_connections, ran, ..known };
            self.keeper.keep(Job { record, log, finished: Some(finished) });
        }
        self.tell_still();
        Ok(())
    }

    /// Takes in what has been told of the stage since the last point in it.
    fn listen(&mut self) {
        self.told.connections.extend(self.cache.connections.take());
        self.told.ran.extend(self.tape.take_ran(self.ahead_ms));
        self.told.log.extend(self.tape.take());
    }

    /// The key of where a stage is now.
    fn key_within(&self, plan: &Plan, index: usize, saved: &Saved) -> Option<StageKey> {
        let progress = saved.progress.as_ref()?;
        let Some(Step::RunParts(parts)) = plan.stages[index].steps.get(progress.step) else {
            return None;
        };
        let here = Point { step: progress.step, scripts: progress.phase.scripts.in_place(parts) };
        let points = self.forecast.points(plan, &self.cache, index);
        points.into_iter().find(|(point, _)| *point == here).map(|(_, key)| key)
    }

    /// What is known about a stage, or a point in it, before it is stored. `None` when it
    /// cannot be put down.
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
            Ok(still) => {
                // After whatever ran, so that it does not count for that.
                self.still = Some(still);
                self.unkept = Duration::ZERO;
                self.begin_work();
                Ok(Some(files.finished()))
            }
            Err(Failure::Restless(error)) => {
                tracing::debug!(error = chain(&error), "no snapshot");
                Ok(None)
            }
            Err(Failure::Layers(error)) => {
                self.keeper.give_up();
                self.warn(&format!("the results of this build are not kept: {}", chain(&error)));
                Ok(None)
            }
            Err(Failure::Frozen(source)) => {
                Err(EngineError::Prepare { action: "go on after a snapshot".into(), source })
            }
        }
    }
}

/// Seconds since 1970.
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
