//! Lowers vmdb2 specs to a plan.
//!
//! ```text
//! command line ─► cli ─► spec (yaml, template, fields) ─► steps ─► lower ─► plan + narration
//! ```
//!
//! A spec is read as vmdb2 0.26 to 0.41 read it: [`yaml`] is YAML 1.1, [`template`] is Jinja2 with
//! its Python semantics. [`spec`] produces typed steps; all errors are reported together, each with
//! its line. [`lower`](lower()) creates a stage for every step that runs in the guest, and
//! [`narration`] contains the lines that vmdb2 prints meanwhile.
//!
//! Architecture invariant: of the workspace, this crate imports `plan` alone. Host files are only
//! read, and only if the spec or its options name them.

pub mod cli;
mod complaint;
mod fields;
pub mod formats;
pub mod fuzzing;
mod inputs;
mod lower;
mod lowering;
pub mod narration;
mod shares;
mod size;
pub mod spec;
mod state;
pub mod steps;
mod table;
pub mod template;
pub mod yaml;

pub use cli::{Failure, Options, Prepared, prepare};
pub use complaint::{Complaint, Source, SpecError};
pub use formats::FormatChoice;
pub use lower::lower;
pub use lowering::{Lowered, Settings};
pub use narration::{LocalRun, Narration, Narrator, StepNote, Wording};
pub use shares::Share;
