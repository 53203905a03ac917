//! The user interface. A build emits events, and this module contains their renderers. Apart from
//! `machine::shell`, which joins processes to the terminal, nothing else in vbuild writes to it.
//!
//! ```text
//! engine ──Event──► Ui ──► live view | plain lines      (one of them)
//!                     ├──► JSON lines                   (--machine-readable)
//!                     ├──► log                          (--logfile, the cache)
//!                     └──► timeline, failure watch      (for the last lines)
//! ```

mod complaint;
mod console;
mod failure;
mod json;
mod live;
mod log;
mod plain;
mod render;
mod text;
mod timeline;
mod utc;
mod view;
mod words;

pub(crate) use console::Console;
pub(crate) use render::Verbosity;
pub(crate) use text::{bytes, duration, plural};
pub(crate) use utc::Utc;
pub(crate) use view::{Settings, Ui, open_channel};
