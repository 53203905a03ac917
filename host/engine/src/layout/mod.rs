//! Disk layouts: created from a plan, detected on a disk, opened in a fresh guest, and grown.
//!
//! To add a kind of node to [`plan::NodeKind`], add a match arm to `make.rs`, to `open.rs` (twice)
//! and to `nodes.rs`; the compiler reports each missing arm.

mod canonical;
mod detect;
mod facts;
mod grow;
mod make;
mod mkfs;
mod mounts;
mod nodes;
mod open;
mod partition;

pub use partition::{TableError, check_tables};

pub(crate) use canonical::{clamp_times, make as make_canonical};
pub(crate) use detect::{find_devices, find_root, forget, read_reports};
pub(crate) use grow::{grow_root, read_report};
pub(crate) use make::create;
pub(crate) use mounts::{fstab, is_of_layout, mounts, trim};
pub(crate) use open::{close, open};
