//! The host end of the guest's network: policy, resolver, connector, log.
//!
//! The guest has no network device. For each TCP connection of a guest program, the agent opens one
//! vsock stream and sends one frame with the destination ([`wire::egress`]). This crate checks the
//! name against the user's [`Policy`], resolves it, checks each address, and connects to one of
//! exactly these addresses; then it relays bytes in both directions and logs the end. Without this
//! crate behind the port there is no network.
//!
//! Architecture invariant: does not depend on machines or the agent; the stream is any byte stream.

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
