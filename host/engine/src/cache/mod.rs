//! The build's use of the store of stage results.
//!
//! ```text
//! forecast ── which stages can be skipped ──► session ──► restore ──► disks of the first stage
//! policy ──── what is worth saving ─────────► session ──► snapshot ──► writer (thread) ──► store
//!                                   recorder ── log of the stage ──┘
//! ```
//!
//! `policy.rs` has every threshold and rule; the other files carry them out.

mod clock;
mod config;
mod connections;
mod forecast;
mod policy;
mod record;
mod recorder;
mod restore;
mod sealed;
mod session;
mod snapshot;
mod why;
mod writer;

pub use config::Cache;
pub use connections::Connections;
pub use forecast::{Forecast, ResumePoint, forecast};
pub use policy::{MAX_AGE_DEFAULT, Refresh, Rules, Trust, check_use};
pub use why::Why;

pub(crate) use record::{Progress, Saved};
pub(crate) use recorder::StageRecorder;
pub(crate) use session::{CacheSession, Ended};
