//! The finished files of a build. They are kept in the store, and a later build of the same plan
//! takes them from there, without a machine.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use engine::{
    Cache,
    cache::{self, Refresh},
};
use output::{Checksum, Pending, PendingTree, Target};
use plan::{Plan, StageKey, Step};
use store::{
    Checksums, FileRole, Origin, Printable, RECORD_VERSION, RawSource, RawTarget, RecordKind,
    StageRecord, StoreError, StoredFile,
};

use crate::{
    error::{CommandError, Kind},
    run_context::RunContext,
};

/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// The outputs of a plan, complete but without their final names.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Image files and archives.
    pub(crate) files: Vec<Pending>,
    /// Unpacked directories that are not at their final paths yet.
    pub(crate) directories: Vec<PendingTree>,
}

/// The output that a stored file is restored to.
enum Place<'a> {
    File(&'a Target),
    Directory(&'a Path),
}

/// Restores the finished files of an earlier build of the same plan, so that no machine is needed.
/// `None` if they are not all stored or may not be used. An error, such as a damaged file, causes a
/// warning.
pub(crate) fn finished(
    plan: &Plan,
    targets: &[Target],
    cache: &Cache,
    ctx: &RunContext,
) -> Option<Finished> {
    if cache.rules.refresh != Refresh::Nothing || always_runs(plan) {
        return None;
    }
    match restore(plan, targets, cache) {
        Ok(finished) => finished,
        Err(error) => {
            let text = checked::chain(error.source.as_ref());
            ctx.warn(format!("the finished files of an earlier build are not used: {text}"));
            None
        }
    }
}

/// Whether a record of the finished files exists that [`finished`] would restore; their content is
/// not read.
pub(crate) fn has_finished(plan: &Plan, targets: &[Target], cache: &Cache) -> bool {
    cache.rules.refresh == Refresh::Nothing
        && !always_runs(plan)
        && record_of(plan, targets, cache).is_ok_and(|record| record.is_some())
}

/// Whether the result of a stage is never saved; the finished files are then not used either.
fn always_runs(plan: &Plan) -> bool {
    plan.stages.iter().any(|stage| stage.keep == plan::Keep::No)
}

/// Looks up the record of the finished files. `None` unless it contains all files and may be used
/// by its age and origin.
fn record_of(
    plan: &Plan,
    targets: &[Target],
    cache: &Cache,
) -> Result<Option<StageRecord>, CommandError> {
    let key = StageKey::of_outputs(plan, &cache.surroundings).0;
    let Some(record) = cache.lease.lookup(&key)? else { return Ok(None) };
    if cache::check_use(&record, &cache.rules, SystemTime::now()).is_err() {
        return Ok(None);
    }
    let known = |role: &FileRole| record.files.iter().any(|file| file.role == *role);
    let places = places(plan, targets);
    let mut needed = places.iter().filter(|(_, place)| matches!(place, Place::File(_)));
    Ok(needed.all(|(role, _)| known(role)).then_some(record))
}

fn restore(
    plan: &Plan,
    targets: &[Target],
    cache: &Cache,
) -> Result<Option<Finished>, CommandError> {
    let Some(record) = record_of(plan, targets, cache)? else { return Ok(None) };
    let places = places(plan, targets);
    let mut finished = Finished { files: Vec::new(), directories: Vec::new() };
    for file in &record.files {
        match places.iter().find(|(role, _)| *role == file.role).map(|(_, place)| place) {
            Some(Place::File(target)) => finished.files.push(restore_file(target, file, cache)?),
            Some(Place::Directory(path)) => {
                finished.directories.extend(restore_directory(path, file, cache)?);
            }
            None => {}
        }
    }
    Ok(Some(finished))
}

fn restore_file(
    target: &Target,
    file: &StoredFile,
    cache: &Cache,
) -> Result<Pending, CommandError> {
    let digests = Checksum::ALL
        .into_iter()
        .filter_map(|kind| Some((kind, checksum(&file.checksums, kind)?)))
        .collect();
    output::restore(target, digests, |handle, path| {
        if !file.layer {
            cache.lease.copy_blob(&file.object, handle)?;
            return Ok(());
        }
        handle.set_len(file.bytes).map_err(StoreError::Target)?;
        let mut raw = RawTarget::open(path)?;
        cache.lease.get_layer(&file.object, &mut raw)?;
        Ok(())
    })
}

fn restore_directory(
    path: &Path,
    file: &StoredFile,
    cache: &Cache,
) -> Result<Option<PendingTree>, CommandError> {
    let mut archive = cache.lease.open_blob(&file.object)?;
    let limits = output::UnpackLimits::default();
    output::unpack_tree(&mut archive, path, limits, &output::Silent).map_err(CommandError::from)
}

/// Returns the outputs of a plan by their roles in the record.
fn places<'a>(plan: &'a Plan, targets: &'a [Target]) -> Vec<(FileRole, Place<'a>)> {
    let mut places = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        places.push((FileRole::File(index), Place::File(target)));
    }
    for (index, path) in plan.fetched().enumerate() {
        places.push((FileRole::Directory(index), Place::Directory(path)));
    }
    places
}

/// The results of a build that are put into the store.
#[derive(Debug, Clone)]
pub(crate) struct Made<'a> {
    /// Image files and archives, in any order.
    pub(crate) files: &'a [Pending],
    /// Unpacked directories, each with the copy of the archive that it came in.
    pub(crate) archives: &'a [(PathBuf, PathBuf)],
    /// When the network was first used for the build, in seconds since 1970.
    pub(crate) fetched: Option<u64>,
    /// The shared cache that the build started from.
    pub(crate) origin: Option<Origin>,
}

/// Puts the finished files of a build into the store. A failure only causes a warning, since it
/// only costs later builds time.
pub(crate) fn keep(
    plan: &Plan,
    targets: &[Target],
    cache: &Cache,
    made: Made<'_>,
    ctx: &RunContext,
) {
    if let Err(error) = try_keep(plan, targets, cache, made) {
        ctx.warn(format!(
            "the finished files are not kept: {}",
            checked::chain(error.source.as_ref())
        ));
    }
}

fn try_keep(
    plan: &Plan,
    targets: &[Target],
    cache: &Cache,
    made: Made<'_>,
) -> Result<(), CommandError> {
    let Made { files, archives, fetched, origin } = made;
    let mut stored = Vec::new();
    for (role, place) in places(plan, targets) {
        match place {
            Place::File(target) => {
                let Some(file) = files.iter().find(|file| file.path() == target.path) else {
                    return Ok(());
                };
                stored.push(store_file(role, file, cache)?);
            }
            Place::Directory(path) => {
                let archive = archives.iter().find(|(directory, _)| directory == path);
                let Some((_, archive)) = archive else { continue };
                let mut file = File::open(archive).map_err(|e| host_error(e, archive))?;
                let bytes = file.metadata().map_err(|e| host_error(e, archive))?.len();
                let object = cache.lease.put_blob(&mut file)?;
                let checksums = Checksums::default();
                stored.push(StoredFile { role, object, layer: false, bytes, checksums });
            }
        }
    }
    stored.push(store_plan(plan, cache)?);
    let keys = StageKey::of_plan(plan, &cache.surroundings);
    let record = StageRecord {
        version: RECORD_VERSION,
        key: StageKey::of_outputs(plan, &cache.surroundings).0,
        parent: keys.last().map(|key| key.0),
        build: plan.name.as_str().into(),
        kind: RecordKind::Outputs,
        name: plan.stages.last().map_or_else(Printable::default, |last| last.name.as_str().into()),
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        elapsed_ms: 0,
        disks: BTreeMap::new(),
        state: serde_json::Value::Null,
        inputs: BTreeMap::new(),
        fetched,
        connections: Vec::new(),
        more_connections: 0,
        ran: Vec::new(),
        log: None,
        files: stored,
        origin,
    };
    cache.lease.put_record(&record).map_err(CommandError::from)
}

/// Stores the plan, for queries about the build (`vbuild explain`). Only its `CopyTree` steps are
/// kept, since other steps contain values of variables, commands and texts, which no query needs.
fn store_plan(plan: &Plan, cache: &Cache) -> Result<StoredFile, CommandError> {
    let mut plan = plan.clone();
    for stage in &mut plan.stages {
        stage.steps.retain(|step| matches!(step, Step::CopyTree { .. }));
    }
    let json = serde_json::to_vec(&plan).map_err(|e| CommandError::new(Kind::Build, e))?;
    let object = cache.lease.put_blob(&mut json.as_slice())?;
    Ok(StoredFile {
        role: FileRole::Plan,
        object,
        layer: false,
        bytes: json.len() as u64,
        checksums: Checksums::default(),
    })
}

/// Returns one checksum of a record in hexadecimal.
fn checksum(all: &Checksums, kind: Checksum) -> Option<String> {
    match kind {
        Checksum::Md5 => all.md5.map(String::from),
        Checksum::Sha256 => all.sha256.map(String::from),
        Checksum::Sha512 => all.sha512.map(String::from),
    }
}

/// Converts digests to the checksums of a record.
fn checksums(digests: &[(Checksum, String)]) -> Checksums {
    let mut all = Checksums::default();
    for (kind, hex) in digests {
        match kind {
            Checksum::Md5 => all.md5 = hex.parse().ok(),
            Checksum::Sha256 => all.sha256 = hex.parse().ok(),
            Checksum::Sha512 => all.sha512 = hex.parse().ok(),
        }
    }
    all
}

fn store_file(role: FileRole, file: &Pending, cache: &Cache) -> Result<StoredFile, CommandError> {
    let (mut handle, path) = file.open()?;
    let meta = handle.metadata().map_err(|e| host_error(e, file.path()))?;
    let layer = meta.blocks() * BLOCK_BYTES < meta.len();
    let object = if layer {
        let mut source = RawSource::open(&path)?;
        cache.lease.put_layer(&mut source)?.digest
    } else {
        cache.lease.put_blob(&mut handle)?
    };
    let checksums = checksums(file.digests());
    Ok(StoredFile { role, object, layer, bytes: meta.len(), checksums })
}

fn host_error(error: io::Error, path: &Path) -> CommandError {
    CommandError::new(Kind::Host, error).context(format!("cannot read {}", path.display()))
}
