//! The store of this user, opened for a build: the results of its stages.

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

/// Where the store is.
#[must_use]
pub fn directory(cache_dir: &Path) -> PathBuf {
    cache_dir.join("store")
}

/// Opens the store.
///
/// # Errors
/// When the directory cannot be used, or holds a store of another version.
pub(crate) fn open(cache_dir: &Path) -> Result<Store, CommandError> {
    Store::open(&directory(cache_dir)).map_err(CommandError::from)
}

/// The cache for a build, unless the settings turn it off. A store that cannot be used
/// costs only time: it causes a warning, and the build continues without it.
///
/// # Errors
/// When certificates or the key of a shared cache cannot be read.
pub(crate) fn for_build(
    settings: &Settings,
    appliance: &ApplianceFiles,
    ctx: &RunContext,
) -> Result<Option<Cache>, CommandError> {
    opened(settings, appliance, ctx, || Store::open(&directory(&settings.cache_dir)).map(Some))
}

/// As [`for_build`] for verbs that only ask: a missing store is not created.
pub(crate) fn for_question(
    settings: &Settings,
    appliance: &ApplianceFiles,
    ctx: &RunContext,
) -> Result<Option<Cache>, CommandError> {
    opened(settings, appliance, ctx, || Store::open_existing(&directory(&settings.cache_dir)))
}

/// The salt of the keys that builds have, once there is a store.
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

/// Everything outside the plan that the steps of a build can see; it is part of their keys.
///
/// # Errors
/// When certificates cannot be read.
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

/// Where a result came from, in words, if it was not built here.
pub(crate) fn origin(origin: Option<&Origin>) -> String {
    match origin {
        None => String::new(),
        Some(Origin { place, key: None, .. }) => format!(", from {place}, unsigned"),
        Some(Origin { place, key: Some(key), .. }) => format!(", from {place}, signed by {key}"),
    }
}
