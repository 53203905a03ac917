//! The effective confinement of a process, as reported by the process itself from the kernel's
//! answers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The Landlock restrictions that the kernel enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Landlock {
    /// Landlock is in force.
    Held {
        /// The Landlock ABI version of the kernel.
        abi: u32,
    },
    /// Landlock is not in force.
    Absent {
        /// The reason.
        reason: String,
    },
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Landlock features by the ABI version that introduced them (landlock(7)).
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

/// How the system calls of a process are restricted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemCalls {
    /// Every thread has an allow list.
    Listed,
    /// The process has a deny list.
    Refused,
    /// Calls outside of a list are logged by the kernel and executed, to find what a list lacks.
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

/// The confinement of a process. All parts are requested; a missing one is not supported by the
/// kernel. Two parts are always in force, since a process does not start without them: no new
/// privileges, and no memory dumps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// The name of the process for the user: `VMM`, `QEMU`.
    pub process: String,
    /// Restrictions of paths, TCP and signals.
    pub landlock: Landlock,
    /// Restrictions of system calls.
    pub system_calls: SystemCalls,
}

impl Confinement {
    /// Descriptions of the parts that are not in force; empty if all are.
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
