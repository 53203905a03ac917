//! Fault injection: disturbs builds at a random moment, checks what they leave behind, and runs the
//! same builds undisturbed.
//!
//! Started by `sh tests/faults.sh N [SEED]`. Round `i` is drawn from the number `SEED + i`, which
//! it prints, so that `sh tests/faults.sh 1 NUMBER` repeats it. `round.rs` has the steps of a
//! round; `state.rs` has the checks.
#![expect(clippy::print_stdout, reason = "its table is what it is for")]

mod draw;
mod ground;
mod mirror;
mod processes;
mod recipe;
mod references;
mod round;
mod run;
mod state;
mod strike;
mod table;
mod tree;

use std::{process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};

use crate::{ground::Ground, references::References, table::Table};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("faults: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the rounds; returns whether all of them passed.
fn run() -> Result<bool> {
    let mut words = std::env::args().skip(1);
    let usage = "usage: faults COUNT [SEED]";
    let count: u64 = words.next().context(usage)?.parse().context(usage)?;
    let seed = match words.next() {
        Some(word) => word.parse().context(usage)?,
        None => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs()),
    };
    // Before any thread exists: only a single-threaded process can enter a user namespace.
    let mut ground = Ground::enter()?;
    let mut references = References::new(&ground)?;
    let mut table = Table::default();
    let started = Instant::now();
    for number in (seed..).take(usize::try_from(count)?) {
        let draw = draw::draw(number, &ground);
        let begun = Instant::now();
        let outcome = round::play(&draw, &mut ground, &mut references);
        let seconds = begun.elapsed().as_secs_f64();
        match &outcome {
            Ok(outcome) => println!("{number} {draw}: {outcome} ({seconds:.1} s)"),
            Err(error) => {
                println!("{number} {draw}: FAILED ({seconds:.1} s): {error:#}");
                println!("    its folder is {}", ground.round(number).display());
                println!("    again: sh tests/faults.sh 1 {number}");
            }
        }
        table.count(draw.fault.name(), outcome.as_ref().ok());
    }
    println!("\n{table}");
    println!(
        "{count} rounds from seed {seed} in {} s, {} failed",
        started.elapsed().as_secs(),
        table.failed()
    );
    Ok(table.failed() == 0)
}
