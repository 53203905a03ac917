//! The mux against a small driver that plays the guest over mock queues.

mod close;
mod credit;
mod guest;
mod hostile;
mod open;
