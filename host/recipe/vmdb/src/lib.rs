//! vmdb2 specs, lowered to a plan.

mod size;
mod table;
pub mod template;
pub mod yaml;
