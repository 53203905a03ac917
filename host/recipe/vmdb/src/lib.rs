//! vmdb2 specs, lowered to a plan.
//!
//! ```text
//! command line ─► cli ─► spec (yaml, template, fields) ─► steps ─► lower ─► plan + narration
//! ```
//!
//! A spec is read as vmdb2 0.26 to 0.41 read it: [`yaml`] is YAML 1.1,
//! [`template`] is Jinja2 with its Python habits. [`spec`] gives typed steps;
//! everything wrong with them is found together, each complaint with its line.
//! [`lower`](lower()) makes a stage of every step that does something in the
//! guest, and [`narration`] knows what vmdb2 would say meanwhile.
//!
//! Architecture invariant: of the workspace, this crate imports `plan` alone.
//! The host is only read, and only where the spec or its options name a file.

pub mod cli;
mod complaint;
mod fields;
pub mod fuzzing;
mod inputs;
mod lower;
pub mod narration;
mod shares;
mod size;
pub mod spec;
mod state;
pub mod steps;
mod table;
pub mod template;
pub mod yaml;

pub use cli::{Failure, FormatChoice, Options, Prepared, Share, prepare};
pub use complaint::{Complaint, Source, SpecError};
pub use lower::{Lowered, Settings, lower};
pub use narration::{LocalRun, Narration, Narrator, StepNote, Wording};
