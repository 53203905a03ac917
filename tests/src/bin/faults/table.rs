//! The table of faults and outcomes.

use std::{collections::BTreeMap, fmt};

/// The outcome of a round that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The build failed with a reason, and left nothing behind.
    Failed,
    /// vbuild itself was killed.
    Killed,
    /// The build succeeded with the correct tree despite the fault.
    Survived,
    /// The build had ended before the fault.
    TooLate,
    /// This machine cannot inject the fault, with the reason.
    Skipped(String),
}

impl Outcome {
    /// Returns the position of the outcome's column.
    fn column(&self) -> usize {
        match self {
            Self::Failed => 0,
            Self::Killed => 1,
            Self::Survived => 2,
            Self::TooLate => 3,
            Self::Skipped(_) => 4,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => f.write_str("failed cleanly"),
            Self::Killed => f.write_str("killed"),
            Self::Survived => f.write_str("survived"),
            Self::TooLate => f.write_str("too late"),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// The names of the columns; the last is for failed rounds.
const COLUMNS: [&str; 6] = ["failed cleanly", "killed", "survived", "too late", "skipped", "WRONG"];
const WRONG: usize = COLUMNS.len() - 1;

/// The number of rounds per fault and outcome.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<&'static str, [u64; COLUMNS.len()]>);

impl Table {
    /// Counts a round; `None` is a failed one.
    pub(crate) fn count(&mut self, fault: &'static str, outcome: Option<&Outcome>) {
        self.0.entry(fault).or_default()[outcome.map_or(WRONG, Outcome::column)] += 1;
    }

    /// Returns the number of failed rounds.
    pub(crate) fn failed(&self) -> u64 {
        self.0.values().map(|row| row[WRONG]).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<28}", "fault")?;
        COLUMNS.iter().try_for_each(|name| write!(f, "{name:>15}"))?;
        let mut total = [0; COLUMNS.len()];
        for (fault, row) in &self.0 {
            write!(f, "\n{fault:<28}")?;
            for (sum, count) in total.iter_mut().zip(row) {
                *sum += count;
                write!(f, "{count:>15}")?;
            }
        }
        write!(f, "\n{:<28}", "all")?;
        total.iter().try_for_each(|count| write!(f, "{count:>15}"))
    }
}
