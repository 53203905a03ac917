//! The agent inside the microVM. It knows no recipe: it carries out the verbs of
//! [`wire::Request`] and reports.
//!
//! In reading order: [`init`] is PID 1, which mounts, loads modules, enters the
//! root and starts the agent as its child; [`Agent`] serves connections; then
//! one file for each kind of verb; `sys` is the only room with `unsafe`.

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
