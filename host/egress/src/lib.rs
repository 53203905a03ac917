//! The host end of the guest's network: policy, resolver, connector, log.
//!
//! The guest has no network device. Its agent opens one vsock stream for each
//! TCP connection that a program in the guest makes, and says in one frame where
//! to ([`wire::egress`]). Here the name is checked against the user's [`Policy`],
//! resolved, each address checked again, and one of exactly these addresses
//! connected to; then bytes go both ways and the end is logged. Without this
//! crate behind the port there is no network.
//!
//! Architecture invariant: nothing here knows about machines or the agent; the
//! stream is any byte stream.

mod connect;
mod http;
mod policy;
mod record;
mod relay;
mod resolve;
mod serve;
mod upstream;

pub use http::Exchange;
pub use policy::{InvalidRule, Policy, Rule};
pub use record::{OnRecord, Record};
pub use resolve::{Lookup, Resolve, SystemResolver};
pub use serve::{Egress, Limits, Options, ReadHostNetwork, Totals};
pub use upstream::Upstream;
