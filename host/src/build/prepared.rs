//! What the engine needs of this host: the helper drive, a build directory, a backend, an
//! appliance, and the results of earlier builds.

use std::sync::Arc;

use engine::{ApplianceFiles, Cache, Config, HelperDrive};
use plan::Plan;

use super::stage_cache;
use crate::{
    error::CommandError,
    machine::{
        appliance,
        backend::{self, Backend},
        build_dir::BuildDir,
        ca,
        drive::HeldDrive,
        network::{self, Network},
    },
    run_context::RunContext,
    settings::Settings,
};

/// The resources of this host that one run of the engine uses.
#[derive(Debug)]
pub(crate) struct Prepared {
    held: Option<HeldDrive>,
    /// The build directory of the run.
    pub(crate) build_dir: BuildDir,
    backend: Backend,
    appliance: ApplianceFiles,
    /// The cache with the results of earlier builds; `None` if it is not used.
    pub(crate) cache: Option<Cache>,
}

impl Prepared {
    /// Locks the helper drive, creates the build directory, chooses the backend, and finds the
    /// appliance or builds it.
    ///
    /// # Errors
    /// Fails if this host lacks one of these resources.
    pub(crate) async fn new(
        plan: &Plan,
        settings: &Settings,
        ctx: &RunContext,
    ) -> Result<Self, CommandError> {
        let settings = &settings.for_plan(plan)?;
        network::check(settings)?;
        let held = HeldDrive::of(settings)?;
        let build_dir = BuildDir::of(settings)?;
        let backend = backend::choose(settings, ctx).await?;
        let appliance = appliance::find_or_build(settings, &backend, &build_dir, ctx).await?;
        let cache = stage_cache::for_build(settings, &appliance, ctx)?;
        Ok(Self { held, build_dir, backend, appliance, cache })
    }

    /// Returns the configuration of the engine.
    ///
    /// # Errors
    /// Fails if certificates or allowed hosts are invalid.
    pub(crate) fn config(
        &self,
        settings: &Settings,
        ctx: &RunContext,
        trees: Arc<dyn engine::TreeSink>,
        visit: Option<engine::Pause>,
    ) -> Result<Config, CommandError> {
        let connections = self.cache.as_ref().map(|cache| cache.connections.clone());
        let network = Network::new(settings, ctx, connections)?;
        Ok(Config {
            backend: Arc::clone(&self.backend.backend),
            accel: self.backend.description.clone(),
            appliance: self.appliance.clone(),
            vcpus: settings.vcpus,
            memory_mib: settings.memory_mib,
            helper: self
                .held
                .as_ref()
                .map(|held| HelperDrive { path: held.path.clone(), format: held.format }),
            build_dir: self.build_dir.path().to_owned(),
            network: network.map(|network| Arc::new(network) as _),
            ca_bundle: ca::certificates(settings)?,
            script_timeout: settings.script_timeout,
            keep_sync: settings.keep_sync,
            fresh_machine_per_stage: settings.fresh_machine_per_stage,
            seed: settings.seed.clone(),
            warm: settings.warm_machines(),
            verbose_console: settings.verbose_console,
            observer: Arc::clone(&ctx.observer),
            trees,
            cancel: ctx.cancel.clone(),
            cache: self.cache.clone(),
            pause: visit,
        })
    }
}
