//! Chooses the accelerator, with a reason.
//!
//! The probe itself runs guest code, so it is part of vbuild's own VMM. This module has its report
//! as data, the decision as a pure function of the report, and the cache of the report. `vbuild
//! doctor` prints the report; a build prints the one-line reason.

mod cache;

pub use cache::{CacheKey, ProbeCache};

use std::{fmt, str::FromStr};

use architecture::MachineArchitecture;
use serde::{Deserialize, Serialize};

/// The value of `--accel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Accel {
    /// KVM if it works, otherwise TCG.
    #[default]
    Auto,
    /// KVM, or an error.
    Kvm,
    /// QEMU's emulation, even where KVM works.
    Tcg,
}

impl Accel {
    /// All values, in the order of the manual.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Kvm, Self::Tcg];

    /// The value on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a value of `--accel`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an accelerator: use `auto`, `kvm` or `tcg`")]
pub struct UnknownAccel(pub String);

impl FromStr for Accel {
    type Err = UnknownAccel;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|accel| accel.as_str() == word)
            .ok_or_else(|| UnknownAccel(word.to_owned()))
    }
}

/// The result of one check of the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed; KVM cannot be used.
    Failed,
    /// It was skipped because an earlier check failed.
    Skipped,
}

/// One check of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The name of the check, such as `capabilities`.
    pub name: String,
    /// The result.
    pub outcome: Outcome,
    /// The measurement, or the reason of a failure: a fragment without a full stop.
    pub detail: Option<String>,
    /// A remedy for a failure.
    pub hint: Option<String>,
}

/// The findings of the probe of `/dev/kvm`, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeReport {
    /// The checks.
    pub checks: Vec<Check>,
}

impl ProbeReport {
    /// Whether KVM is usable.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if let Some(check) = self.checks.iter().find(|check| check.outcome == Outcome::Failed) {
            return Verdict::Unusable {
                check: check.name.clone(),
                reason: check.detail.clone().unwrap_or_else(|| "failed".to_owned()),
                hint: check.hint.clone(),
            };
        }
        if self.checks.iter().any(|check| check.outcome == Outcome::Passed) {
            return Verdict::Usable;
        }
        Verdict::Unusable {
            check: "probe".to_owned(),
            reason: "nothing was checked".to_owned(),
            hint: None,
        }
    }
}

/// The conclusion of a [`ProbeReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every check passed.
    Usable,
    /// A check failed.
    Unusable {
        /// The name of the first failed check.
        check: String,
        /// The reason why KVM is unusable: a fragment without a full stop.
        reason: String,
        /// A remedy for the user, if there is one.
        hint: Option<String>,
    },
}

/// Whether QEMU is installed for emulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Emulator {
    /// QEMU is installed.
    Present {
        /// The version as QEMU prints it, such as `10.0.2`.
        version: String,
    },
    /// QEMU is missing or unusable.
    Absent {
        /// The reason: a fragment without a full stop.
        reason: String,
    },
}

/// The chosen VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chosen {
    /// vbuild's own VMM on KVM.
    Microvm,
    /// QEMU with emulation.
    QemuTcg,
}

/// A choice with a one-line reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The chosen VMM.
    pub chosen: Chosen,
    /// The reason, as a fragment that follows `accelerator: `.
    pub reason: String,
    /// How to get a faster accelerator.
    pub hint: Option<String>,
}

/// No VMM can run the machine as requested.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NoAccelerator {
    /// What is missing, and why.
    pub message: String,
    /// A remedy for the user.
    pub hint: Option<String>,
}

/// How to install QEMU, for hints.
fn install_qemu(architecture: MachineArchitecture) -> String {
    format!("install QEMU (the package `{}`)", architecture.qemu_package())
}

/// Chooses the VMM for a machine of an architecture; KVM runs only that of the host. `report` may
/// be a dummy if the decision does not depend on it: it is not used with [`Accel::Tcg`], and for
/// another architecture.
///
/// # Errors
/// Fails if the requested accelerator, or any at all, is not usable here.
pub fn decide(
    asked: Accel,
    architecture: MachineArchitecture,
    report: &ProbeReport,
    emulator: &Emulator,
) -> Result<Choice, NoAccelerator> {
    let emulate = |because, hint| emulate(architecture, emulator, because, hint);
    match asked {
        Accel::Tcg => emulate("`--accel tcg` was given".to_owned(), None),
        Accel::Kvm if !architecture.is_of_host() => Err(NoAccelerator {
            message: format!(
                "KVM cannot run a machine of {architecture} on a processor of {}",
                std::env::consts::ARCH
            ),
            hint: Some("without `--accel kvm`, QEMU emulates it".to_owned()),
        }),
        Accel::Auto if !architecture.is_of_host() => {
            emulate(format!("the machine is of {architecture}, and this host is not"), None)
        }
        Accel::Kvm | Accel::Auto => match report.verdict() {
            Verdict::Usable => Ok(Choice {
                chosen: Chosen::Microvm,
                reason: "KVM, which passed every check".to_owned(),
                hint: None,
            }),
            Verdict::Unusable { check, reason, hint } if asked == Accel::Kvm => {
                Err(NoAccelerator {
                    message: format!("KVM cannot be used: {check}: {reason}"),
                    hint: hint.or_else(|| {
                        Some("use `--accel tcg`; `vbuild doctor` shows every check".to_owned())
                    }),
                })
            }
            Verdict::Unusable { check, reason, hint } => {
                emulate(format!("KVM cannot be used: {check}: {reason}"), hint)
            }
        },
    }
}

/// Chooses emulation, if QEMU is installed.
fn emulate(
    architecture: MachineArchitecture,
    emulator: &Emulator,
    because: String,
    hint: Option<String>,
) -> Result<Choice, NoAccelerator> {
    match emulator {
        Emulator::Present { version } => Ok(Choice {
            chosen: Chosen::QemuTcg,
            reason: format!("TCG of QEMU {version}, as {because}"),
            hint,
        }),
        Emulator::Absent { reason } => Err(NoAccelerator {
            message: format!("nothing can run a virtual machine: {because}; QEMU: {reason}"),
            hint: Some(match hint {
                Some(hint) => format!("{hint}; or {}", install_qemu(architecture)),
                None => install_qemu(architecture),
            }),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The architecture of this host, and one that is not.
    fn hosts_and_another() -> (MachineArchitecture, MachineArchitecture) {
        let [amd64, arm64] = MachineArchitecture::ALL;
        if amd64.is_of_host() { (amd64, arm64) } else { (arm64, amd64) }
    }

    fn check(name: &str, outcome: Outcome, detail: Option<&str>, hint: Option<&str>) -> Check {
        Check {
            name: name.to_owned(),
            outcome,
            detail: detail.map(str::to_owned),
            hint: hint.map(str::to_owned),
        }
    }

    fn good() -> ProbeReport {
        ProbeReport { checks: vec![check("open", Outcome::Passed, None, None)] }
    }

    fn bad() -> ProbeReport {
        ProbeReport {
            checks: vec![
                check("open", Outcome::Failed, Some("permission denied"), Some("join `kvm`")),
                check("speed", Outcome::Skipped, None, None),
            ],
        }
    }

    fn qemu() -> Emulator {
        Emulator::Present { version: "10.0.2".to_owned() }
    }

    fn no_qemu() -> Emulator {
        Emulator::Absent { reason: "`qemu-system-x86_64` is not in the path".to_owned() }
    }

    #[test]
    fn words() {
        for accel in Accel::ALL {
            assert_eq!(accel.as_str().parse(), Ok(accel));
        }
        assert_eq!("KVM".parse::<Accel>(), Err(UnknownAccel("KVM".to_owned())));
    }

    #[test]
    fn auto_takes_kvm_and_falls_back_with_the_reason() {
        assert_eq!(
            decide(Accel::Auto, hosts_and_another().0, &good(), &no_qemu()).unwrap().chosen,
            Chosen::Microvm
        );
        let choice = decide(Accel::Auto, hosts_and_another().0, &bad(), &qemu()).unwrap();
        assert_eq!(choice.chosen, Chosen::QemuTcg);
        assert_eq!(
            choice.reason,
            "TCG of QEMU 10.0.2, as KVM cannot be used: open: permission denied"
        );
        assert_eq!(choice.hint.as_deref(), Some("join `kvm`"));
    }

    #[test]
    fn what_was_asked_for_is_not_replaced() {
        let refused = decide(Accel::Kvm, hosts_and_another().0, &bad(), &qemu()).unwrap_err();
        assert_eq!(refused.to_string(), "KVM cannot be used: open: permission denied");
        assert_eq!(
            decide(Accel::Tcg, hosts_and_another().0, &good(), &qemu()).unwrap().chosen,
            Chosen::QemuTcg
        );
        assert!(decide(Accel::Tcg, hosts_and_another().0, &good(), &no_qemu()).is_err());
    }

    #[test]
    fn neither_names_both_reasons() {
        let nothing = decide(Accel::Auto, hosts_and_another().0, &bad(), &no_qemu()).unwrap_err();
        assert!(nothing.message.contains("permission denied"), "{nothing}");
        assert!(nothing.message.contains("not in the path"), "{nothing}");
        let hint = nothing.hint.unwrap();
        assert!(
            hint.contains("join `kvm`") && hint.contains(hosts_and_another().0.qemu_package()),
            "{hint}"
        );
    }

    #[test]
    fn another_architecture_is_emulated_though_kvm_works() {
        let (_, other) = hosts_and_another();
        for asked in [Accel::Auto, Accel::Tcg] {
            let choice = decide(asked, other, &good(), &qemu()).unwrap();
            assert_eq!(choice.chosen, Chosen::QemuTcg);
        }
        let refused = decide(Accel::Kvm, other, &good(), &qemu()).unwrap_err();
        assert!(refused.message.contains(&other.to_string()), "{refused}");
        let nothing = decide(Accel::Auto, other, &good(), &no_qemu()).unwrap_err();
        assert!(nothing.hint.unwrap().contains(other.qemu_package()));
    }

    #[test]
    fn an_empty_report_is_no_pass() {
        assert!(matches!(ProbeReport::default().verdict(), Verdict::Unusable { .. }));
        assert!(matches!(bad().verdict(), Verdict::Unusable { check, .. } if check == "open"));
    }
}
