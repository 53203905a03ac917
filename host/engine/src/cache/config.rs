//! What a build is given of its cache.

use std::sync::Arc;

use plan::Surroundings;
use store::Lease;

use super::{connections::Connections, policy::Rules};

/// The store and the rules by which one build uses it.
#[derive(Debug, Clone)]
pub struct Cache {
    /// The build's hold on the store.
    pub lease: Arc<Lease>,
    /// Which results may be used.
    pub rules: Rules,
    /// What the steps can see beside the plan.
    pub surroundings: Surroundings,
    /// Collects the guest's connections as they end.
    pub connections: Connections,
}
