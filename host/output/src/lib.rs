//! Image formats, each in its own file, written atomically on the host.
//!
//! ```text
//!   write_disks(source, targets) ─┐
//!                                 ├─► Vec<Pending> ──► commit ──► names
//!   write_trees(tar, targets) ────┘   complete, flushed, nameless
//! ```
//!
//! A disk format reads the disk once, as strides that contain data; a tree format reads the tar
//! stream of the mounted tree. Several outputs share one pass over their source, compress on all
//! cores, and get their final names together when [`commit`] is called. If anything fails earlier,
//! or the process dies, files of earlier builds are intact and nothing is left behind.
//!
//! Calls block and use threads; asynchronous callers must run them on a blocking thread.

mod atomic;
mod check;
mod checksum;
mod commit;
mod disk_input;
mod error;
mod format;
mod formats;
pub mod fuzzing;
mod losses;
mod place;
mod pool;
mod progress;
mod restore;
mod run;
mod source;
mod tools;
mod unpack;

pub use check::check;
pub use checksum::Checksum;
pub use commit::{Existing, Pending, Written, civil_date, commit};
pub use error::{OutputError, Result};
pub use format::{Format, Identity, Naming, Need, Origin, Target};
pub use formats::{FORMATS, format, parse_formats, unknown_format};
pub use place::{check_directory, check_file};
pub use progress::{Event, Progress, Silent};
pub use restore::restore;
pub use run::{write_disks, write_trees};
pub use source::{BlockSource, RawFile};
pub use tools::{load_container, needs_program};
pub use unpack::{PendingTree, UnpackLimits, unpack_tree};
