//! What holds of a process's confinement: told by the process itself, from what
//! the kernel answered.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The landlock that a kernel granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Landlock {
    /// It holds.
    Held {
        /// The version of the kernel's interface.
        abi: u32,
    },
    /// The kernel granted nothing.
    Absent {
        /// The reason.
        reason: String,
    },
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// From which version on landlock knows what (landlock(7)).
        const SINCE: [(u32, &str); 5] =
            [(1, "files"), (3, "truncation"), (4, "TCP"), (5, "devices"), (6, "signals")];
        match self {
            Self::Absent { reason } => write!(f, "no landlock ({reason})"),
            Self::Held { abi } => {
                let parts = SINCE.iter().filter(|(since, _)| since <= abi).map(|(_, part)| *part);
                let parts: Vec<&str> = parts.collect();
                write!(f, "landlock {abi} ({})", parts.join(", "))
            }
        }
    }
}

/// How the system calls of a process are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemCalls {
    /// Every thread has the list of those that it may make.
    Listed,
    /// There is a list of those that are refused.
    Refused,
    /// What a list lacks is noted by the kernel and carried out: for finding out what
    /// belongs into a list.
    Noted,
}

impl fmt::Display for SystemCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listed => "only the system calls that its threads need",
            Self::Refused => "no system calls that reach others",
            Self::Noted => "all system calls",
        })
    }
}

/// What confines a process. Each of these is asked for; what is missing, the kernel
/// did not grant. No new privileges and no memory images always hold: a process
/// without them does not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// Which process, for people: `VMM`, `QEMU`.
    pub process: String,
    /// Paths, TCP and signals.
    pub landlock: Landlock,
    /// System calls.
    pub system_calls: SystemCalls,
}

impl Confinement {
    /// The layers that do not hold, in words; none when all do.
    #[must_use]
    pub fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        if let Landlock::Absent { reason } = &self.landlock {
            lacks.push(format!("landlock ({reason})"));
        }
        if self.system_calls == SystemCalls::Noted {
            lacks.push("a list of system calls that is held to".to_owned());
        }
        lacks
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, landlock, system_calls } = self;
        write!(f, "{process}: {landlock}, {system_calls}, no new privileges, no core files")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(landlock: Landlock) -> Confinement {
        Confinement { process: "VMM".into(), landlock, system_calls: SystemCalls::Listed }
    }

    #[test]
    fn what_holds_and_what_does_not() {
        let all = with(Landlock::Held { abi: 7 });
        assert_eq!(
            all.to_string(),
            "VMM: landlock 7 (files, truncation, TCP, devices, signals), only the system calls \
             that its threads need, no new privileges, no core files"
        );
        assert!(all.lacks().is_empty());
        assert!(with(Landlock::Held { abi: 2 }).to_string().contains("landlock 2 (files),"));
        let none = with(Landlock::Absent { reason: "the kernel does not have it".into() });
        assert_eq!(none.lacks(), ["landlock (the kernel does not have it)"]);
        let noted = Confinement { system_calls: SystemCalls::Noted, ..all };
        assert_eq!(noted.lacks(), ["a list of system calls that is held to"]);
    }
}
