//! The reasons why a stage runs although a cache is in use.

use std::{fmt, time::Duration};

use checked::Printable;

/// Maximum number of inputs that a reason names; the rest is only counted.
const NAMED_INPUTS: usize = 3;

/// The reason why a stage runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There is no record of a stage with this name in a build with this name.
    NeverBuilt,
    /// These inputs have changed since the stage ran.
    Changed(Vec<Printable>),
    /// The stage before it, which has this name, runs.
    Follows(String),
    /// The network content of its result has this age, which the rules do not allow.
    Expired(Duration),
    /// The time in its record is in the future: a clock was set back.
    Clock,
    /// The stage's result came from a shared cache that is not trusted any more.
    Untrusted {
        /// The location of the shared cache.
        place: Printable,
        /// Whether the result was signed, though with another key than the configured one.
        signed: bool,
    },
    /// The user requested it with `--refresh`.
    Refresh,
    /// The stage ran before, but its disks were not worth saving, or have been removed.
    NotKept,
    /// The stage writes to the host.
    Output,
    /// The plan forbids that its result is kept: [`plan::Keep::No`].
    NeverKept,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("it was not built before"),
            Self::Changed(names) => {
                f.write_str("changed: ")?;
                for (index, name) in names.iter().take(NAMED_INPUTS).enumerate() {
                    write!(f, "{}{name}", if index == 0 { "" } else { ", " })?;
                }
                match names.len().saturating_sub(NAMED_INPUTS) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::Follows(stage) => write!(f, "it follows {stage}"),
            Self::Expired(age) => write!(
                f,
                "what came over the network is {} h old, more than --max-age",
                age.as_secs() / 3600
            ),
            Self::Clock => f.write_str("it was made in the future; the clock was set back"),
            Self::Untrusted { place, signed: false } => {
                write!(f, "it came unsigned from {place}; --remote-unsigned permits that")
            }
            Self::Untrusted { place, signed: true } => {
                write!(f, "it came from {place}, signed with another key than --remote-key")
            }
            Self::Refresh => f.write_str("--refresh"),
            Self::NotKept => f.write_str("its result was not kept"),
            Self::Output => f.write_str("it writes to the host"),
            Self::NeverKept => f.write_str("its recipe says that it is never kept"),
        }
    }
}
