//! The files on the host behind the plan's disks.

mod base_copy;
mod files;

pub use files::target_files;

pub(crate) use files::{Disks, Finished, disk_bytes, serial, source};
