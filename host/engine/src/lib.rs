//! Runs a plan in a session and tells what happens as events.
//!
//! Architecture invariant: the engine knows no front end and no backend.

pub mod events;
