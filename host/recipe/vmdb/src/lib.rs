//! vmdb2 specs, lowered to a plan.

pub mod template;
pub mod yaml;
