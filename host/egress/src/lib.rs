//! The host end of the guest's network: policy, resolver, connector, log.
