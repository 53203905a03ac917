//! Runs a plan in a session and tells what happens as events.
