//! Tests of the mux with a minimal driver that acts as the guest on mock queues.

mod close;
mod credit;
mod guest;
mod hostile;
mod open;
