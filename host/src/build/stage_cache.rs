//! Opens the user's store of stage results for a build.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use engine::{
    ApplianceFiles, Cache,
    cache::{self, Rules},
};
use plan::Salt;
use store::{Origin, Store, StoreError};

use super::shared_cache;
use crate::{error::CommandError, machine::ca, run_context::RunContext, settings::Settings};

/// Returns the directory of the store.
#[must_use]
pub fn directory(cache_dir: &Path) -> PathBuf {
    cache_dir.join("store")
}

/// Opens the store, and creates it if there is none.
///
/// # Errors
/// Fails if the directory cannot be used, or contains other files or a store of another version.
pub(crate) fn open(cache_dir: &Path) -> Result<Store, CommandError> {
    Store::open(&directory(cache_dir)).map_err(CommandError::from)
}

/// Opens the cache for a build. `None` if the settings turn it off, or, with a warning, if the
/// store cannot be used: that costs the build only time.
///
/// # Errors
/// Fails if certificates or the key of a shared cache cannot be read.
pub(crate) fn for_build(
    settings: &Settings,
    appliance: &ApplianceFiles,
    ctx: &RunContext,
) -> Result<Option<Cache>, CommandError> {
    opened(settings, appliance, ctx, || Store::open(&directory(&settings.cache_dir)).map(Some))
}

/// Same as [`for_build`], for verbs that only query: a missing store is not created.
pub(crate) fn for_question(
    settings: &Settings,
    appliance: &ApplianceFiles,
    ctx: &RunContext,
) -> Result<Option<Cache>, CommandError> {
    opened(settings, appliance, ctx, || Store::open_existing(&directory(&settings.cache_dir)))
}

/// Returns the salt of the stage keys; `None` if there is no store yet.
pub(crate) fn salt(settings: &Settings) -> Option<Salt> {
    let store = Store::open_existing(&directory(&settings.cache_dir)).ok().flatten();
    store.map(|store| Salt::new(store.salt()))
}

fn opened(
    settings: &Settings,
    appliance: &ApplianceFiles,
    ctx: &RunContext,
    open: impl FnOnce() -> Result<Option<Store>, StoreError>,
) -> Result<Option<Cache>, CommandError> {
    if !settings.stage_cache.enabled {
        return Ok(None);
    }
    let trust = shared_cache::trust(settings)?;
    let opened = open().and_then(|store| match store {
        None => Ok(None),
        Some(store) => Ok(Some((store.lease()?, Salt::new(store.salt())))),
    });
    match opened {
        Ok(None) => Ok(None),
        Ok(Some((lease, salt))) => Ok(Some(Cache {
            lease: Arc::new(lease),
            rules: Rules { trust, ..settings.stage_cache.rules.clone() },
            surroundings: surroundings(settings, appliance, salt)?,
            connections: cache::Connections::default(),
        })),
        Err(error) => {
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            ctx.warn(format!("building without a cache: {}{hint}", checked::chain(&error)));
            Ok(None)
        }
    }
}

/// Returns everything outside the plan that the steps of a build can see; it is part of the stage
/// keys.
///
/// # Errors
/// Fails if certificates cannot be read.
pub(crate) fn surroundings(
    settings: &Settings,
    appliance: &ApplianceFiles,
    salt: plan::Salt,
) -> Result<plan::Surroundings, CommandError> {
    let certificates = ca::certificates(settings)?;
    Ok(plan::Surroundings {
        salt,
        appliance: appliance.digest,
        network: settings.network,
        certificates: certificates.as_deref().map(plan::Digest::of),
        seed: settings.seed.clone(),
    })
}

/// Describes the shared cache that a result came from; empty if it was built here.
pub(crate) fn origin(origin: Option<&Origin>) -> String {
    match origin {
        None => String::new(),
        Some(Origin { place, key: None, .. }) => format!(", from {place}, unsigned"),
        Some(Origin { place, key: Some(key), .. }) => format!(", from {place}, signed by {key}"),
    }
}
