//! The name service of a guest that reaches the world by the host's door: names that the
//! host has found get addresses of 198.18.0.0/15, and a connection to such an address is
//! one to the name, so that the host decides by names.
//!
//! The agent answers with it inside the machines of builds, and `netstack` beside a
//! finished image that is booted.
//!
//! Architecture invariant: no I/O; sockets and the door are the callers'.

mod names;
mod query;

pub use names::Names;
pub use query::read_query;
pub use query::{Code, QUERY_MAX_BYTES, Question, answer_here, parse, respond};
