//! What a machine needs from the host: a backend, an appliance with its agent, a network, a helper
//! drive, certificates and a directory. Also what runs in a machine apart from builds.

mod agent;
pub(crate) mod appliance;
pub(crate) mod backend;
pub(crate) mod build_dir;
pub(crate) mod ca;
pub(crate) mod confinement;
pub(crate) mod drive;
pub(crate) mod exec;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod shell;
