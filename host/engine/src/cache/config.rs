//! The configuration of the cache for one build.

use std::sync::Arc;

use plan::Surroundings;
use store::Lease;

use super::{connections::Connections, policy::Rules};

/// The store and the rules by which one build uses it.
#[derive(Debug, Clone)]
pub struct Cache {
    /// The lease that keeps the build's objects in the store.
    pub lease: Arc<Lease>,
    /// The rules for results that may be used.
    pub rules: Rules,
    /// The inputs of steps beside the plan.
    pub surroundings: Surroundings,
    /// The collector of the guest's connections, which are added as they end.
    pub connections: Connections,
}
