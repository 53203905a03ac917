//! diskimage-builder elements, lowered to a plan.
//!
//! Elements run unmodified; what diskimage-builder's shell around them does is
//! typed here. [`locate`] finds diskimage-builder and the elements, [`lower`]
//! turns options and elements into a [`plan::Plan`]. The module names in the
//! order in which a build meets them:
//!
//! ```text
//! options ─► source ─► elements ─► hooks ─┐
//!    └─► settings ─► block_device ────────┴─► environment ─► lower (stages, outputs)
//! ```
//!
//! Architecture invariant: this crate reads files of the host and, to fetch
//! diskimage-builder, the network; it starts no process and knows no machine.

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
