//! The options about what guests and vbuild itself reach.

use clap::Args;

use super::values::{CaBundle, allow_host, ca_bundle};

/// The heading of these options.
pub(super) const NETWORK: &str = "The network";

/// What the machine may reach, and what vbuild fetches for it.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = NETWORK)]
pub(crate) struct NetworkArgs {
    /// Give scripts a network (the default)
    #[arg(long, overrides_with_all = ["no_network", "network"])]
    pub(crate) network: bool,

    /// Give scripts no network at all, and set DIB_OFFLINE=1
    #[arg(long, overrides_with_all = ["no_network", "network"])]
    pub(crate) no_network: bool,

    /// What of the world it may reach.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,

    /// Where vbuild's own downloads come from.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// What of the world a guest with a network may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = NETWORK)]
pub(crate) struct ReachArgs {
    /// Let the guest reach this host and no other; may be given several times
    ///
    /// HOST is a name, `*.` and the end of a name, or an address. A name opens the public
    /// addresses that it resolves to; with =ADDRESS it means this address instead, whatever
    /// it is. Loopback, link-local, cloud metadata and the host's own addresses are reached
    /// only where they are written here.
    #[arg(long, value_name = "HOST[:PORT][=ADDRESS]", value_parser = allow_host)]
    pub(crate) allow_host: Vec<String>,

    /// Let the guest reach private addresses too, those of the host's links among them
    ///
    /// Loopback, link-local, cloud metadata and the host's own addresses stay closed, but for
    /// those that --allow-host has.
    #[arg(long)]
    pub(crate) allow_private: bool,

    /// Let the proxy of the environment resolve names that the guest asks for
    ///
    /// Without it a name is resolved on this host, its addresses are checked, and the proxy
    /// is asked for a checked address. Use it where the host cannot resolve public names, or
    /// the proxy decides by name; what names lead to is then the proxy's to decide.
    #[arg(long)]
    pub(crate) proxy_resolves: bool,
}

/// Where the appliance comes from, and who is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = NETWORK)]
pub(crate) struct SourceArgs {
    /// Where the appliance's packages come from [default: the host's own apt sources]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,

    /// Certificates to trust beside the usual ones: a PEM file, or `host` for the host's
    ///
    /// For networks whose proxy inspects TLS. They are known to the appliance and, while scripts
    /// run, in the image; they never become part of it.
    #[arg(long, value_name = "FILE|host", value_parser = ca_bundle)]
    pub(crate) ca_bundle: Option<CaBundle>,
}
