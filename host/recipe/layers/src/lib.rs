//! Layer directories as in vm-layer-builder: a disk image as a stack of scripts, one directory
//! each, lowered to a plan.
//!
//! ```text
//! project/                     stages of the plan
//!   vbuild.yaml  (optional)    base: copy of the base image, grown, its root found
//!   05_resize/modify-disk      05_resize: on the bare disk, with stand-ins for qemu-nbd
//!   10_update/build-layer      10_update: in a chroot, the folder at /mnt
//!   20_app/build-layer         20_app
//!                              finish: free blocks given back
//! ```
//!
//! A layer is one stage, or two if its script needs host paths in the chroot. So the engine's cache
//! serves as the cache of layers: a stage's key covers the base, the previous layers, and every
//! file of its directory with its mode.
//!
//! Architecture invariant: reads files of the project, and nothing else on the host; the caller
//! finds and verifies the base image.

mod base_recipe;
mod config;
pub mod fuzzing;
mod hints;
mod lower;
mod project;

pub use base_recipe::{FrontEnd, Recipe};
pub use config::{Base, Config, ConfigError, parse as parse_config, parse_root};
pub use hints::{Bind, Hints};
pub use inputs::{SourceError, Sources};
pub use lower::{DISK, File, Lowered, ROOT, Request, Target, inspect, lower};
pub use project::{
    BUILD_FOLDER, CONFIG_FILE, Kind, Layer, NewLayerError, Project, ProjectError, new_layer, read,
};

/// The name of this front end in its plans.
pub const RECIPE: &str = "layers";
