//! The verbs of vbuild: one file or directory for each, with its arguments (their doc comments are
//! the manual) and its `run`. [`verb`] lists them, [`command_line`] parses them.

pub(crate) mod command_line;
pub(crate) mod context;
pub(crate) mod verb;

mod b9;
pub(crate) mod dib;
mod images;
mod layers;
mod vmdb;

mod boot;
mod exec;
mod explain;
mod plan;
mod shell;

mod appliance;
mod cache;
mod completions;
mod doctor;
mod store;

pub(crate) mod base_recipe;
pub(crate) mod cache_root;
mod caller;
pub(crate) mod capabilities;
mod recipe;
