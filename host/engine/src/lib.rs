//! Runs a plan in a session and tells what happens as events.
//!
//! Architecture invariant: the engine knows no front end and no backend. What it
//! needs of the host beyond the plan comes in a [`Config`]; trees leave it as
//! streams through a [`TreeSink`].

pub mod events;

mod adopt;
pub mod cache;
mod caching;
mod canonical;
pub mod certificates;
mod clock;
mod command;
mod config;
mod context;
mod disk_base;
mod disks;
mod error;
pub mod fuzzing;
mod grow;
mod guest;
mod keeper;
mod layout;
mod mkfs;
mod partition;
mod restore;
mod run;
mod run_parts;
mod sealed;
mod snapshot;
mod start;
mod step;
mod steps;
mod tape;
mod upload;

pub use cache::Cache;
pub use config::{
    ApplianceFiles, CarriedMount, Config, HelperDrive, MadeNode, Network, Place, State, TreeSink,
    Visit, Visitor,
};
pub use disks::target_files;
pub use error::EngineError;
pub use guest::{HELPER_SERIAL, ROOT_SERIAL, mount_drive};
pub use partition::{Placed, TableError, TableImage, check_tables, lay_out};
pub use run::{Built, run};
