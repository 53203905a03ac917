//! The shared cache of a build: results of other users are fetched before it, and its own results
//! are pushed after it.
//!
//! Only the stages before the first one that is kept locally, is never kept or has effects on the
//! host are shared: the results of later stages contain the result of that one too.

use std::time::SystemTime;

use engine::{
    Cache,
    cache::{self, Refresh, Trust},
};
use plan::{Keep, Plan, Salt, StageKey, Step, Surroundings};
use remote::{Here, Moved, Options, Remote, RemoteError, Secret};
use store::StageRecord;

use crate::{
    error::{CommandError, Kind},
    machine::ca,
    run_context::RunContext,
    settings::Settings,
    ui::bytes,
};

/// Maximum number of bytes that are read of a secret's file: `openssl rand -hex 32` writes 65.
const SECRET_MAX_BYTES: u64 = 64 << 10;

/// Checks the options of the shared cache without a request to it. Returns its secret, if it has
/// one.
///
/// # Errors
/// Fails if the options do not tell whose results are trusted, or the secret cannot be used.
pub(crate) fn check(settings: &Settings) -> Result<Option<Secret>, CommandError> {
    let Some(place) = &settings.remote_cache else { return Ok(None) };
    let secret = secret(settings)?;
    if secret.is_none() && !settings.remote_unsigned {
        let text = format!("--remote-cache {place}: nothing says whose results are trusted");
        return Err(CommandError::usage(text)
            .hint("`--remote-key FILE` trusts those that are signed with a common secret")
            .hint("`--remote-unsigned` trusts everybody who can write to the place"));
    }
    Ok(secret)
}

/// Opens the shared cache of a build; `None` if it has none.
///
/// # Errors
/// Fails if the place cannot be used, or for the reasons of [`check`].
pub(crate) fn open(settings: &Settings) -> Result<Option<Remote>, CommandError> {
    let Some(place) = &settings.remote_cache else { return Ok(None) };
    let secret = check(settings)?;
    let options = Options { ca_bundle: ca::certificates(settings)?, secret, ..Options::default() };
    let remote = Remote::open(place.clone(), &options);
    remote.map(Some).map_err(|error| CommandError::new(Kind::Usage, error))
}

/// Reads the secret of `--remote-key`, without white space at its end.
///
/// # Errors
/// Fails if the file cannot be read, is accessible to other users, or is too short.
pub(crate) fn secret(settings: &Settings) -> Result<Option<Secret>, CommandError> {
    let Some(file) = &settings.remote_key else { return Ok(None) };
    let name = format!("--remote-key {}", file.display());
    let read = rooted::read_secret(file, SECRET_MAX_BYTES).map_err(|error| {
        let hint = error.hint();
        CommandError::new(Kind::Usage, error).context(name.clone()).maybe_hint(hint)
    })?;
    let secret = Secret::new(read.trim_ascii_end()).ok_or_else(|| {
        let least = remote::SECRET_MIN_BYTES;
        CommandError::usage(format!("{name}: it has less than {least} bytes"))
            .hint("`openssl rand -hex 32` makes a good one")
    })?;
    Ok(Some(secret))
}

/// Returns which results of shared caches a build uses.
pub(crate) fn trust(settings: &Settings) -> Result<Trust, CommandError> {
    let key = secret(settings)?.map(|secret| secret.id());
    Ok(Trust { key, unsigned: settings.remote_unsigned })
}

/// Returns how many stages, counted from the first, may be shared.
fn shared_stages(plan: &Plan) -> usize {
    let stays = |step: &Step| step.changes_host();
    plan.stages
        .iter()
        .position(|stage| {
            !matches!(stage.keep, Keep::Shared | Keep::Disks) || stage.steps.iter().any(stays)
        })
        .unwrap_or(plan.stages.len())
}

/// The shared cache and the local cache of a build.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The remote store.
    pub(crate) remote: Remote,
    /// The local cache.
    pub(crate) cache: Cache,
}

impl Shared {
    /// Fetches the last stage that only the remote store has. If that fails, a warning is given,
    /// and the stage is built.
    pub(crate) async fn fetch(&self, plan: &Plan, ctx: &RunContext) {
        if let Err(error) = try_fetch(&self.remote, plan, &self.cache, ctx).await {
            let causes = checked::chain(&error);
            ctx.warn(format!("building without the shared cache: {causes}"));
        }
    }

    /// Pushes the stages that only the local cache has.
    ///
    /// # Errors
    /// Fails if a stage cannot be pushed. The outputs and the local cache are not affected.
    pub(crate) async fn push(&self, plan: &Plan, ctx: &RunContext) -> Result<(), CommandError> {
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
    ctx: &RunContext,
) -> Result<(), RemoteError> {
    let keys = StageKey::of_plan(plan, &cache.surroundings);
    let keys_there = StageKey::of_plan(plan, &there(remote, cache));
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
        let here = Here {
            key,
            parent: index.checked_sub(1).map(|before| keys[before].0),
            inputs: plan::stage_inputs(plan, &plan.stages[index], &cache.surroundings),
        };
        let fetched = remote.fetch(&keys_there[index].0, here, &cache.lease).await?;
        let Some(moved) = fetched else { continue };
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

/// Returns what steps can see, with the salt of the shared cache.
fn there(remote: &Remote, cache: &Cache) -> Surroundings {
    let salt = remote.salt().map_or(Salt::PUBLIC, Salt::new);
    Surroundings { salt, ..cache.surroundings.clone() }
}

/// Whether a build can resume from a stage without the shared cache.
fn is_here(cache: &Cache, key: &store::Digest) -> Result<bool, RemoteError> {
    let found = cache.lease.lookup(key).map_err(|source| RemoteError::Store { source })?;
    Ok(found.is_some_and(|record| {
        record.resumable() && cache::check_use(&record, &cache.rules, SystemTime::now()).is_ok()
    }))
}

async fn try_push(remote: &Remote, plan: &Plan, cache: &Cache) -> Result<Moved, RemoteError> {
    let keys = StageKey::of_plan(plan, &cache.surroundings);
    let keys_there = StageKey::of_plan(plan, &there(remote, cache));
    let mut all = Moved::default();
    for (key, there) in keys.iter().zip(&keys_there).take(shared_stages(plan)) {
        let found = cache.lease.lookup(&key.0).map_err(|source| RemoteError::Store { source })?;
        // Push only what this build itself would accept.
        let trusted = |record: &StageRecord| {
            cache::check_use(record, &cache.rules, SystemTime::now()).is_ok()
        };
        let Some(record) = found.filter(|record| record.resumable() && trusted(record)) else {
            continue;
        };
        let moved = remote.push(&record, &there.0, &cache.lease).await?;
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
            architecture: plan::Architecture::Amd64,
            disks: Vec::new(),
            stages: keeps.iter().enumerate().map(stage).collect(),
            outputs: Outputs::default(),
            helper_at: plan::GuestPath::new("/helper").unwrap(),
        }
    }

    fn error(settings: &Settings) -> String {
        let error = open(settings).unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        format!("{error}: {}", error.hints.join("; "))
    }

    #[test]
    fn somebody_must_be_trusted_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let place = remote::Place::Folder(folder.path().join("shared"));
        let shared = Settings { remote_cache: Some(place), ..Settings::default() };
        assert!(open(&Settings::default()).unwrap().is_none());
        let said = error(&shared);
        assert!(said.contains("--remote-key FILE") && said.contains("--remote-unsigned"), "{said}");
        assert!(!folder.path().join("shared").exists(), "nothing is made before");
        let unsigned = Settings { remote_unsigned: true, ..shared };
        assert_eq!(open(&unsigned).unwrap().unwrap().salt(), None);
        assert!(trust(&unsigned).unwrap().unsigned);
    }

    #[test]
    fn a_key_is_for_the_eyes_of_its_user() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        let settings = Settings {
            remote_cache: Some(remote::Place::Folder(folder.path().join("shared"))),
            remote_key: Some(key.clone()),
            ..Settings::default()
        };
        let write = |text: &str, mode: u32| {
            std::fs::write(&key, text).unwrap();
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        for mode in [0o644, 0o660, 0o602, 0o666] {
            write("sixteen bytes or more", mode);
            let said = error(&settings);
            assert!(said.contains("--remote-key") && said.contains("chmod 600"), "{said}");
        }
        write("short", 0o600);
        assert!(error(&settings).contains("less than 16 bytes"));
        write("sixteen bytes or more\n", 0o400);
        assert!(open(&settings).unwrap().unwrap().salt().is_some());
        let (trust, secret) = (trust(&settings).unwrap(), Secret::new(b"sixteen bytes or more"));
        assert_eq!(trust, Trust { key: secret.map(|secret| secret.id()), unsigned: false });
    }

    #[test]
    fn what_follows_a_layer_that_stays_stays_too() {
        use Keep::{Local, No, Shared};
        assert_eq!(shared_stages(&plan(&[Shared, Shared])), 2);
        assert_eq!(shared_stages(&plan(&[Shared, Local, Shared])), 1);
        assert_eq!(shared_stages(&plan(&[No, Shared])), 0);
    }
}
