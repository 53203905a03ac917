//! The shared cache around a build: what others have built is fetched before,
//! what was built is pushed after.
//!
//! Only a prefix of the stages is shared: up to the first whose result shall stay
//! here or is never kept, because whatever follows holds it too.

use engine::{
    Cache,
    cache::{self, Refresh},
};
use plan::{Keep, Plan, StageKey, Step};
use remote::{Moved, Options, Remote, RemoteError, Secret};
use std::{path::Path, time::SystemTime};

use crate::{
    error::{CommandError, Kind},
    pipeline::{self, Ctx},
    settings::Settings,
    ui::bytes,
};

/// What is read of a secret's file: `openssl rand -hex 32` makes 65 bytes.
const SECRET_MAX_BYTES: u64 = 64 << 10;

/// The shared cache of a build, if it has one.
///
/// # Errors
/// A place that cannot be used.
pub fn open(settings: &Settings) -> Result<Option<Remote>, CommandError> {
    let Some(place) = &settings.remote_cache else { return Ok(None) };
    let options = Options {
        ca_bundle: pipeline::load_certificates(settings)?,
        secret: settings.remote_key.as_deref().map(secret).transpose()?,
        ..Options::default()
    };
    let remote = Remote::open(place.clone(), &options);
    remote.map(Some).map_err(|error| CommandError::new(Kind::Usage, error))
}

/// The secret in a file, without the end of its last line.
fn secret(file: &Path) -> Result<Secret, CommandError> {
    let read = rooted::read_secret(file, SECRET_MAX_BYTES).map_err(|error| {
        let hint = error.hint();
        CommandError::new(Kind::Usage, error)
            .context(format!("--remote-key {}", file.display()))
            .maybe_hint(hint)
    })?;
    Secret::new(read.trim_ascii_end()).ok_or_else(|| {
        let least = remote::SECRET_MIN_BYTES;
        CommandError::usage(format!(
            "--remote-key {}: it has less than {least} bytes",
            file.display()
        ))
        .hint("`openssl rand -hex 32` makes a good one")
    })
}

/// How many stages from the first on may be shared.
fn shared_stages(plan: &Plan) -> usize {
    let stays = |step: &Step| matches!(step, Step::Fetch { .. } | Step::ExportTree { .. });
    plan.stages
        .iter()
        .position(|stage| stage.keep != Keep::Shared || stage.steps.iter().any(stays))
        .unwrap_or(plan.stages.len())
}

/// The shared cache of a build that runs.
#[derive(Debug)]
pub struct Shared {
    /// There.
    pub remote: Remote,
    /// Here.
    pub cache: Cache,
}

impl Shared {
    /// Fetches the last stage that is there and not here. What cannot be fetched
    /// is built: it is told, and costs time.
    pub async fn fetch(&self, plan: &Plan, ctx: &Ctx) {
        if let Err(error) = try_fetch(&self.remote, plan, &self.cache, ctx).await {
            let error: &dyn std::error::Error = &error;
            let causes = std::iter::successors(Some(error), |error| error.source());
            let words: Vec<String> = causes.map(ToString::to_string).collect();
            ctx.warn(format!("building without the shared cache: {}", words.join(": ")));
        }
    }

    /// Pushes what is here and not there.
    ///
    /// # Errors
    /// When it cannot be pushed. What was built is not lost by that.
    pub async fn push(&self, plan: &Plan, ctx: &Ctx) -> Result<(), CommandError> {
        let Self { remote, cache } = self;
        let moved = try_push(remote, plan, cache).await.map_err(|error| {
            CommandError::new(Kind::Build, error)
                .context("the build was not shared")
                .hint("its outputs are written, and its results are kept in your own cache")
        })?;
        if moved.stages > 0 {
            let count = moved.stages;
            let what = if count == 1 { "stage" } else { "stages" };
            let size = bytes(moved.bytes);
            ctx.say(format!("pushed {count} {what} to {} ({size})", remote.place()));
        }
        Ok(())
    }
}

async fn try_fetch(
    remote: &Remote,
    plan: &Plan,
    cache: &Cache,
    ctx: &Ctx,
) -> Result<(), RemoteError> {
    let keys = StageKey::of_plan(plan, &cache.surroundings);
    let wanted = match &cache.rules.refresh {
        Refresh::Nothing => plan.stages.len(),
        Refresh::Everything => 0,
        Refresh::From(name) => plan.stages.iter().position(|s| s.name == *name).unwrap_or(0),
    };
    for index in (0..shared_stages(plan).min(wanted)).rev() {
        let key = keys[index].0;
        if is_here(cache, &key)? {
            break;
        }
        let Some(moved) = remote.fetch(&key, &cache.session).await? else { continue };
        let name = &plan.stages[index].name;
        if !is_here(cache, &key)? {
            ctx.say(format!("{name} is in {} and too old", remote.place()));
            continue;
        }
        ctx.say(format!("fetched {name} from {} ({})", remote.place(), bytes(moved.bytes)));
        break;
    }
    Ok(())
}

/// Whether a build could go on from a stage without the shared cache.
fn is_here(cache: &Cache, key: &store::Digest) -> Result<bool, RemoteError> {
    let found = cache.session.lookup(key).map_err(|source| RemoteError::Store { source })?;
    Ok(found.is_some_and(|record| {
        record.resumable() && cache::check_age(&record, &cache.rules, SystemTime::now()).is_ok()
    }))
}

async fn try_push(remote: &Remote, plan: &Plan, cache: &Cache) -> Result<Moved, RemoteError> {
    let keys = StageKey::of_plan(plan, &cache.surroundings);
    let mut all = Moved::default();
    for key in &keys[..shared_stages(plan)] {
        let key = key.0;
        let found = cache.session.lookup(&key).map_err(|source| RemoteError::Store { source })?;
        let Some(record) = found.filter(store::StageRecord::resumable) else { continue };
        let moved = remote.push(&record, &cache.session).await?;
        all.stages += moved.stages;
        all.objects += moved.objects;
        all.bytes += moved.bytes;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use plan::{Context, Outputs, Stage};

    use super::*;

    fn plan(keeps: &[Keep]) -> Plan {
        let stage = |(index, keep): (usize, &Keep)| Stage {
            name: index.to_string(),
            context: Context::default(),
            steps: Vec::new(),
            network: false,
            keep: *keep,
            timeout_s: None,
        };
        Plan {
            format_version: plan::FORMAT_VERSION,
            name: "test".into(),
            recipe: "test".into(),
            disks: Vec::new(),
            stages: keeps.iter().enumerate().map(stage).collect(),
            outputs: Outputs::default(),
            helper_at: plan::GuestPath::new("/helper").unwrap(),
        }
    }

    #[test]
    fn what_follows_a_layer_that_stays_stays_too() {
        use Keep::{Local, No, Shared};
        assert_eq!(shared_stages(&plan(&[Shared, Shared])), 2);
        assert_eq!(shared_stages(&plan(&[Shared, Local, Shared])), 1);
        assert_eq!(shared_stages(&plan(&[No, Shared])), 0);
    }
}
