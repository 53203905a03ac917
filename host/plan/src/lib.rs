//! The build as data: the narrow waist between recipes and the engine.
//!
//! A front end lowers its recipe to a [`Plan`]; the engine runs the plan in a microVM. This crate
//! does not access files, clocks or the environment, so a plan can be printed, compared with a
//! golden file, hashed and checked before any machine boots.
//!
//! Paths of the guest ([`GuestPath`]) are relative to the *tools root*: the appliance's userland
//! with a writable layer on the scratch disk. A step with [`Place::Image`] runs chrooted below
//! [`Context::image_root`].
//!
//! Architecture invariant: of the workspace, this crate imports only `checked` and `architecture`,
//! which have the checked types of names and digests.

mod check;
mod facets;
mod key;
mod layout;
mod output;
mod path;
mod script_name;
mod stage;
mod step;
mod unix_path;
mod upload;

pub use checked::{Digest, DiskName, InvalidDiskName};

pub use architecture::{Architecture, MachineArchitecture};
pub use check::{Complaint, check};
pub use key::{Inputs, Point, Salt, StageKey, Surroundings, changed_inputs, stage_inputs};
pub use layout::{
    Extended, Filesystem, FstabEntry, Layout, LayoutError, LogicalVolume, Luks, LvSize, MdArray,
    Mount, Node, NodeKind, Partition, PartitionTable, Percent, Placing, Size, TableLabel,
};
pub use output::{Checksum, ImageOutput, LENGTH_FACT, Outputs, TreeOutput};
pub use path::{GuestPath, InvalidPath};
pub use script_name::{compare_scripts, is_script_name};
pub use stage::{Bind, Context, Disk, DiskBase, DiskRole, DiskSize, Keep, Plan, Stage};
pub use step::{
    DevicePlace, Env, FactName, FileStep, FoundDevice, ImageSize, PROGRAM_PATH, Place, ResolvConf,
    Run, RunParts, Script, Step, Value,
};
pub use unix_path::{InvalidEscape, UnixPath};
pub use upload::{DeviceKind, FileSource, Upload, UploadEntry, UploadKind};

/// The version of the plan as data. It is part of every stage key: raise it whenever the same data
/// would be carried out differently.
pub const FORMAT_VERSION: u32 = 1;
