//! Lowers diskimage-builder elements to a plan.
//!
//! Elements run unmodified; diskimage-builder's shell code around them is typed code here.
//! [`locate`] finds diskimage-builder and the elements, [`lower`] turns options and elements into a
//! [`plan::Plan`]. The modules, in the order in which a build uses them:
//!
//! ```text
//! options ─► source ─► elements ─► hooks ─┐
//!    └─► settings ─► block_device ────────┴─► environment ─► lower (stages, outputs)
//! ```
//!
//! Architecture invariant: this crate reads files of the host and uses the network only to fetch
//! diskimage-builder; it starts no process and does not depend on the machine.

mod block_device;
mod elements;
mod environment;
mod error;
mod files;
pub mod fuzzing;
mod guest;
mod hooks;
mod host_files;
mod lower;
mod numbers;
mod options;
mod phase;
/// The name of this front end in its plans.
pub const RECIPE: &str = "dib";

#[cfg(test)]
mod real;
mod settings;
mod source;
mod yaml;

pub use block_device::{BlockDeviceError, ConfigOrigin, ConfigText, SizeFault, Symbols};
pub use elements::{Catalogue, Element, ElementError, LeadsOut, requested};
pub use error::{DibError, DibErrorKind};
pub use hooks::{DuplicateHook, HookError};
pub use lower::{Lowered, lower};
pub use numbers::{Unit, blocks, size};
pub use options::{DibOptions, FormatChoice, MadeFrom, OptionError, Share};
pub use phase::Phase;
pub use source::{FetchFailure, Fetcher, Located, Origin, SourceError, VERSION, World, locate};
