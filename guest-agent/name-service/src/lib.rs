//! The name service of a guest that reaches the outside through the host. Names that the host has
//! resolved get addresses of 198.18.0.0/15, and a connection to such an address is treated as one
//! to the name, so that the host decides by names.
//!
//! The agent uses it inside the machines of builds, and `netstack` uses it on the host for a
//! finished image that is booted.
//!
//! Architecture invariant: this crate does no I/O. Sockets and requests to the host belong to the
//! callers.

mod names;
mod query;

pub use names::Names;
pub use query::read_query;
pub use query::{Code, QUERY_MAX_BYTES, Question, answer_here, parse, respond};
