//! Why a stage runs although a cache is in use.

use std::{fmt, time::Duration};

use checked::Printable;

/// A reason names this many inputs and counts the rest.
const NAMED_INPUTS: usize = 3;

/// Why a stage runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No record has a stage of this name of this build.
    NeverBuilt,
    /// These inputs have changed since it ran.
    Changed(Vec<Printable>),
    /// A stage before it runs.
    Follows(String),
    /// Its network content is of this age, which the rules do not allow.
    Expired(Duration),
    /// Its record has a time in the future: a clock was set back.
    Clock,
    /// The stage's result came from a shared cache that is not trusted any more.
    Untrusted {
        /// The shared cache.
        place: Printable,
        /// Whether it was signed, with another key than the one that is configured.
        signed: bool,
    },
    /// The user asked for it: `--refresh`.
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
