//! Tests of the whole path over loopback, which is explicitly allowed.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]
#![expect(unreachable_pub, reason = "a test has no outside")]

mod bounds;
mod common;
mod own_host;
mod proxy;
mod serve;
