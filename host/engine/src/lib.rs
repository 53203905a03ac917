//! Runs a plan in a session, and reports what happens as events.
//!
//! Architecture invariant: the engine depends on no front end and on no particular backend.
//! Everything that it needs of the host beside the plan is in a [`Config`]; trees leave it as
//! streams through a [`TreeSink`].

pub mod cache;
pub mod certificates;
pub mod events;
pub mod fuzzing;

mod config;
mod context;
mod disks;
mod error;
mod guest;
mod layout;
mod run;
mod state;
mod step_context;
mod steps;

pub use cache::Cache;
pub use config::{
    ApplianceFiles, Config, HelperDrive, Network, Pause, PauseContext, PauseHook, TreeSink,
};
pub use disks::target_files;
pub use error::EngineError;
pub use guest::{HELPER_SERIAL, ROOT_SERIAL, mount_drive};
pub use layout::{TableError, check_tables};
pub use run::{Built, run};

pub(crate) use state::State;
