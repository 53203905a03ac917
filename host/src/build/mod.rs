//! From a recipe's plan to finished outputs. [`pipeline`] is a build as prose; the other modules
//! are its parts, and functions that several verbs share.

pub(crate) mod advice;
pub(crate) mod checks;
pub(crate) mod outputs;
pub(crate) mod pipeline;
pub(crate) mod prepared;
mod progress;
pub(crate) mod shared_cache;
pub(crate) mod stage_cache;
pub(crate) mod targets;
pub(crate) mod trees;

pub(crate) mod bases;
pub(crate) mod container;
pub(crate) mod downloads;
pub(crate) mod formats;
pub(crate) mod host_paths;
pub(crate) mod logs;
pub(crate) mod options;
pub(crate) mod planned;
pub(crate) mod runtime;
