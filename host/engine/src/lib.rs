//! Runs a plan in a session and tells what happens as events.
//!
//! Architecture invariant: the engine knows no front end and no backend. What it
//! needs of the host beyond the plan comes in a [`Config`]; trees leave it as
//! streams through a [`TreeSink`].

pub mod events;

mod adopt;
mod base;
mod command;
mod config;
mod context;
mod error;
mod grow;
mod guest;
mod layout;
mod partition;
mod run;
mod run_parts;
mod steps;

pub use config::{ApplianceFiles, CarriedMount, Config, HelperDrive, MadeNode, State, TreeSink};
pub use error::EngineError;
pub use guest::ROOT_SERIAL;
pub use partition::{Placed, TableError, TableImage, lay_out};
pub use run::{Built, run};
