//! Image formats, one file each, written atomically on the host.
//!
//! ```text
//!   write_disks(source, targets) ─┐
//!                                 ├─► Vec<Pending> ──► commit ──► names
//!   write_trees(tar, targets) ────┘   complete, flushed, nameless
//! ```
//!
//! A disk format sees the disk once, as strides with data in them; a tree
//! format sees the tar stream of the mounted tree. Several outputs share one
//! reading of their source, compress on all cores, and appear together under
//! their names only when [`commit`] is called: whatever fails before, however
//! the process dies, files from earlier builds are whole and nothing is left.
//!
//! Calls block and use threads; asynchronous callers put them on one.

mod atomic;
mod checksum;
mod commit;
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

pub use checksum::Checksum;
pub use commit::{Existing, Pending, Written, civil_date, commit};
pub use error::{OutputError, Result};
pub use format::{
    FORMATS, Format, Identity, Need, Origin, Target, check, container_architecture, format,
    parse_formats,
};
pub use place::{check_directory, check_file};
pub use progress::{Event, Progress, Silent};
pub use restore::restore;
pub use run::{write_disks, write_trees};
pub use source::{BlockSource, RawFile};
pub use tools::{load_container, needs_program};
pub use unpack::{PendingTree, UnpackLimits, unpack_tree};
