//! The program of every fuzz target: runs the body with the program's name.

#![no_main]

mod bodies;

/// The body of this program.
fn body() -> fn(&[u8]) {
    let name = env!("CARGO_BIN_NAME");
    match bodies::TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, body)) => *body,
        None => unreachable!("`{name}` is no target"),
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body()(bytes));
