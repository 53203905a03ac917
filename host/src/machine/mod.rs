//! What a machine needs of this host: a backend, an appliance with its agent, a network, a
//! helper drive, certificates, a directory; and what runs in one beside builds.

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
