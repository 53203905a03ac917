//! What network addresses and names lead to: the internet, the user's networks,
//! this host, or a service that a cloud offers to its machines; and the proxy that
//! the environment names.
//!
//! Two crates decide by it who may be reached: `egress` for the guest's connections,
//! `download` for the redirects of vbuild's own downloads. The ranges, the table of
//! metadata services and the reading of `no_proxy` therefore exist once.

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
