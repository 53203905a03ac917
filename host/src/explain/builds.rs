//! Builds in the store, found by name or by an image that they wrote.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use plan::Plan;
use store::{Digest, FileRole, Lease, Printable, RecordKind, StageRecord};

use crate::{
    build::stage_cache,
    error::{CommandError, Kind},
    settings::Settings,
};

/// Maximum number of stages that are followed back from the end of a build.
const STAGES_MAX: usize = 10_000;

/// A build in the store.
pub(super) struct Built {
    pub(super) plan: Plan,
    /// The records of the build's stages in order, as far as they are known.
    pub(super) stages: Vec<StageRecord>,
    pub(super) lease: Arc<Lease>,
}

/// Returns the latest build that wrote this image, or else the latest build of this name.
pub(super) fn find(settings: &Settings, build: &str) -> Result<Built, CommandError> {
    let store = stage_cache::open(&settings.cache_dir)?;
    let lease = Arc::new(store.lease()?);
    let mut records = store.records()?;
    records.retain(|(_, record)| record.kind == RecordKind::Outputs);
    records.sort_by_key(|(_, record)| std::cmp::Reverse(record.created));
    let image = Path::new(build);
    let digest = image.is_file().then(|| digest_of(image)).transpose()?;
    let holds = |record: &StageRecord| {
        digest.is_some_and(|digest| record.files.iter().any(|file| file.object == digest))
    };
    let name = image.file_stem().and_then(|stem| stem.to_str()).unwrap_or(build);
    let (build_name, name) = (Printable::from(build), Printable::from(name));
    let called = |record: &StageRecord| record.build == build_name || record.build == name;
    let record = records
        .iter()
        .map(|(_, record)| record)
        .find(|record| holds(record))
        .or_else(|| records.iter().map(|(_, record)| record).find(|record| called(record)));
    let record = record.ok_or_else(|| {
        CommandError::usage(format!("the store knows no build `{build}`"))
            .hint("`vbuild store ls` lists the builds that it knows")
    })?;
    let role = record.files.iter().find(|file| file.role == FileRole::Plan);
    let incomplete = || CommandError::message(Kind::Build, "the record of the build has no plan");
    let mut json = Vec::new();
    lease.get_blob(&role.ok_or_else(incomplete)?.object, &mut json)?;
    let plan: Plan =
        serde_json::from_slice(&json).map_err(|e| CommandError::new(Kind::Build, e))?;
    let mut stages = Vec::new();
    let mut next = record.parent;
    while let Some(key) = next.filter(|_| stages.len() < STAGES_MAX) {
        let Some(stage) = lease.lookup(&key)? else { break };
        next = stage.parent;
        stages.push(stage);
    }
    stages.reverse();
    Ok(Built { plan, stages, lease })
}

fn digest_of(path: &Path) -> Result<Digest, CommandError> {
    let failed = |e| CommandError::new(Kind::Host, e).context(format!("read {}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    Digest::of_reader(&mut file).map_err(failed)
}

/// Restores the target disk of a build of layers, in the state after one layer, to a file in a
/// directory. Returns `None` if there is no build of that name, or the latest one has not kept it.
///
/// # Errors
/// Fails if the store cannot be read, or cannot restore the disk.
pub(crate) fn restore_layer(
    settings: &Settings,
    build: &str,
    layer: &str,
    directory: &Path,
) -> Result<Option<PathBuf>, CommandError> {
    let built = match find(settings, build) {
        Err(error) if error.kind == Kind::Usage => return Ok(None),
        found => found?,
    };
    let layer = Printable::from(layer);
    if built.plan.recipe != layers::RECIPE {
        return Ok(None);
    }
    let Some(target) = built.plan.disks.iter().find(|disk| disk.role == plan::DiskRole::Target)
    else {
        return Ok(None);
    };
    let stage = built.stages.iter().find(|stage| stage.name == layer);
    let disk = stage.and_then(|stage| {
        let mut disks = stage.disks.iter();
        disks.find(|(name, _)| name.as_str() == target.name.as_str()).map(|(_, disk)| disk)
    });
    let Some(disk) = disk else { return Ok(None) };
    let path = directory.join("layer.raw");
    built.lease.restore(disk, &path)?;
    Ok(Some(path))
}
