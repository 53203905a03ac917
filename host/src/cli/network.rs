//! The options for what guests and vbuild itself reach over the network.

use clap::Args;

use super::values::{CaBundle, allow_host, ca_bundle};

/// The heading of the network options in `--help`.
pub(super) const NETWORK: &str = "The network";

/// The options for what the machine may reach, and where vbuild's own downloads come from.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = NETWORK)]
pub(crate) struct NetworkArgs {
    /// Give scripts a network (the default)
    #[arg(long, overrides_with_all = ["no_network", "network"])]
    pub(crate) network: bool,

    /// Give scripts no network at all, and set DIB_OFFLINE=1
    #[arg(long, overrides_with_all = ["no_network", "network"])]
    pub(crate) no_network: bool,

    /// The options for the hosts that the guest may reach.
    #[command(flatten)]
    pub(crate) reach: ReachArgs,

    /// The options for vbuild's own downloads.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// The options for the hosts that a guest with a network may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = NETWORK)]
pub(crate) struct ReachArgs {
    /// Let the guest reach this host and no other; repeatable
    ///
    /// HOST is a name, `*.` with the end of a name, or an address. A name permits the public
    /// addresses that it resolves to; with =ADDRESS it permits this address instead, of whatever
    /// kind. Loopback, link-local, cloud metadata and the host's own addresses can be reached only
    /// if they are given here as addresses.
    #[arg(long, value_name = "HOST[:PORT][=ADDRESS]", value_parser = allow_host)]
    pub(crate) allow_host: Vec<String>,

    /// Let the guest also reach private addresses, including those on the host's own networks
    ///
    /// Loopback, link-local, cloud metadata and the host's own addresses stay closed, except those
    /// that are given with --allow-host.
    #[arg(long)]
    pub(crate) allow_private: bool,

    /// Let the proxy of the environment resolve the names that the guest asks for
    ///
    /// Without this option, names are resolved on this host, their addresses are checked, and the
    /// proxy is asked for a checked address. Use the option if the host cannot resolve public
    /// names, or if the proxy decides by name. The proxy then decides which addresses a name leads
    /// to.
    #[arg(long)]
    pub(crate) proxy_resolves: bool,
}

/// The options for the source of the appliance, and for trusted certificates.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = NETWORK)]
pub(crate) struct SourceArgs {
    /// Get the packages of the appliance from URL [default: the host's own apt sources]
    #[arg(long, value_name = "URL")]
    pub(crate) mirror: Option<String>,

    /// Trust more certificates: those in a PEM file, or `host` for the host's
    ///
    /// This is for networks whose proxy inspects TLS. The certificates are trusted in the appliance
    /// and, while scripts run, in the image; they never become part of the image.
    #[arg(long, value_name = "FILE|host", value_parser = ca_bundle)]
    pub(crate) ca_bundle: Option<CaBundle>,
}
