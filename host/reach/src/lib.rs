//! Classifies network addresses and names: the internet, the user's networks, this host, or a
//! service that a cloud offers to its machines; and finds the proxy in the environment.
//!
//! Two crates base their access decisions on it: `egress` for the guest's connections, `download`
//! for the redirects of vbuild's own downloads. So the ranges, the table of metadata services and
//! the interpretation of `no_proxy` exist once.

mod address;
mod interfaces;
mod metadata;
mod name;
mod proxy;

pub use address::{Reach, reach};
pub use interfaces::HostNetwork;
pub use metadata::{METADATA_SERVICES, MetadataService};
pub use name::{Host, InvalidHost, LocalName, local_name};
pub use proxy::{InvalidProxy, NoProxy, Proxies, Proxy, ProxyScheme, Scheme};
