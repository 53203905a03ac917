//! The agent inside the microVM. It has no knowledge of recipes: it carries out the requests of
//! [`wire::Request`] and reports the results.
//!
//! In reading order: [`init`] is PID 1, which mounts filesystems, loads modules, enters the root
//! and starts the agent as its child; [`Agent`] serves connections; then one file for each kind of
//! request follows. `sys` is the only module with `unsafe` code.

mod block;
mod console;
mod failure;
mod files;
pub mod fuzzing;
pub mod init;
mod modules;
mod mounts;
mod network;
mod openat2;
mod parking;
mod process;
mod pump;
mod queue;
mod serve;
mod shutdown;
mod spawn;
mod stream;
mod sync_filter;
mod sys;
mod tar;
mod tree;
mod workers;

pub use serve::{Agent, Transport};
