//! Processor architectures: their names in Debian, QEMU, Rust, Linux, OCI and
//! diskimage-builder, and which machine runs their programs.
//!
//! vbuild builds for an architecture in a machine of that architecture, so that scripts run
//! natively whatever the host is. A name that this crate does not know is not an error of its
//! own: front ends hand unknown names on, as their originals do.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// An architecture. It is serialised by its name in Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 64-bit x86.
    Amd64,
    /// 32-bit x86, which runs in a machine of [`Architecture::Amd64`].
    I386,
    /// 64-bit Arm.
    Arm64,
    /// 32-bit Arm with hardware floating point.
    Armhf,
    /// 64-bit PowerPC, little endian.
    Ppc64el,
    /// 64-bit RISC-V.
    Riscv64,
    /// IBM Z.
    S390x,
}

/// The names of one architecture.
struct Names {
    debian: &'static str,
    /// What `uname -m` prints, and what RPM distributions call it.
    uname: &'static str,
    /// `std::env::consts::ARCH`.
    rust: &'static str,
    /// `architecture` of an OCI image: Go's `GOARCH`.
    oci: &'static str,
    /// Names that recipes use beside those above.
    others: &'static [&'static str],
}

impl Architecture {
    /// All architectures.
    pub const ALL: [Self; 7] = [
        Self::Amd64,
        Self::I386,
        Self::Arm64,
        Self::Armhf,
        Self::Ppc64el,
        Self::Riscv64,
        Self::S390x,
    ];

    /// The architecture of this host, when it has a name here.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.names().rust == std::env::consts::ARCH)
    }

    fn names(self) -> Names {
        let names = |debian, uname, rust, oci, others| Names { debian, uname, rust, oci, others };
        match self {
            Self::Amd64 => names("amd64", "x86_64", "x86_64", "amd64", &[]),
            Self::I386 => names("i386", "i686", "x86", "386", &["i586", "x86"]),
            Self::Arm64 => names("arm64", "aarch64", "aarch64", "arm64", &[]),
            Self::Armhf => names("armhf", "armv7l", "arm", "arm", &["armv7hl"]),
            Self::Ppc64el => names("ppc64el", "ppc64le", "powerpc64", "ppc64le", &["powerpc64le"]),
            Self::Riscv64 => names("riscv64", "riscv64", "riscv64", "riscv64", &[]),
            Self::S390x => names("s390x", "s390x", "s390x", "s390x", &[]),
        }
    }

    /// The name of Debian's port, as in `dpkg --print-architecture`.
    #[must_use]
    pub fn debian(self) -> &'static str {
        self.names().debian
    }

    /// The name in an OCI or docker image: Go's `GOARCH`.
    #[must_use]
    pub fn oci(self) -> &'static str {
        self.names().oci
    }

    /// The machine that runs its programs.
    ///
    /// # Errors
    /// For an architecture of which vbuild has no machine.
    pub const fn machine(self) -> Result<MachineArchitecture, NoMachine> {
        match self {
            Self::Amd64 | Self::I386 => Ok(MachineArchitecture::Amd64),
            Self::Arm64 => Ok(MachineArchitecture::Arm64),
            Self::Armhf | Self::Ppc64el | Self::Riscv64 | Self::S390x => Err(NoMachine(self)),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.debian())
    }
}

/// A word that names no architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an architecture that vbuild knows")]
pub struct Unknown(pub String);

impl FromStr for Architecture {
    type Err = Unknown;

    /// Takes a name of Debian, of `uname -m` or of OCI, and some more. Where two systems use one
    /// word for different things (`ppc64`), the word is unknown.
    fn from_str(word: &str) -> Result<Self, Unknown> {
        let is = |known: &Self| {
            let names = known.names();
            [names.debian, names.uname, names.oci].contains(&word) || names.others.contains(&word)
        };
        Self::ALL.into_iter().find(is).ok_or_else(|| Unknown(word.to_owned()))
    }
}

/// The architecture of a machine and of the appliance in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum MachineArchitecture {
    /// 64-bit x86: the own VMM on KVM, or QEMU's `microvm`.
    #[default]
    Amd64,
    /// 64-bit Arm: QEMU's `virt`.
    Arm64,
}

impl MachineArchitecture {
    /// All machines.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The machine of this host's architecture; amd64 on a host of which there is no machine.
    #[must_use]
    pub fn of_host() -> Self {
        let host = Architecture::of_host().and_then(|host| host.machine().ok());
        host.unwrap_or_default()
    }

    /// The architecture of its own programs.
    #[must_use]
    pub const fn architecture(self) -> Architecture {
        match self {
            Self::Amd64 => Architecture::Amd64,
            Self::Arm64 => Architecture::Arm64,
        }
    }

    /// QEMU's program for it.
    #[must_use]
    pub const fn qemu_program(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Debian's package of that program.
    #[must_use]
    pub const fn qemu_package(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86",
            Self::Arm64 => "qemu-system-arm",
        }
    }

    /// The target for which Rust builds its agent.
    #[must_use]
    pub const fn rust_target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Whether it is that of this host, so that KVM can run it.
    #[must_use]
    pub fn is_of_host(self) -> bool {
        Architecture::of_host() == Some(self.architecture())
    }
}

impl fmt::Display for MachineArchitecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.architecture().fmt(f)
    }
}

/// An architecture of which vbuild has no machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "vbuild has no machine of the architecture {0}, but of amd64 (which also runs i386) and arm64"
)]
pub struct NoMachine(pub Architecture);

/// A word that names no architecture, or one of which vbuild has no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMachineForName {
    /// The word names no architecture.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The architecture has no machine.
    #[error(transparent)]
    NoMachine(#[from] NoMachine),
}

impl FromStr for MachineArchitecture {
    type Err = NoMachineForName;

    /// The machine that runs programs of the named [`Architecture`].
    fn from_str(word: &str) -> Result<Self, NoMachineForName> {
        Ok(word.parse::<Architecture>()?.machine()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_means_one_architecture() {
        for known in Architecture::ALL {
            let names = known.names();
            for name in [names.debian, names.uname, names.oci].iter().chain(names.others) {
                assert_eq!(name.parse(), Ok(known), "{name}");
            }
        }
        assert_eq!("sparc".parse::<Architecture>(), Err(Unknown("sparc".into())));
    }

    #[test]
    fn machines_run_their_own_programs_and_i386() {
        for machine in MachineArchitecture::ALL {
            assert_eq!(machine.architecture().machine(), Ok(machine));
            assert_eq!(machine.to_string().parse(), Ok(machine));
        }
        assert_eq!(Architecture::I386.machine(), Ok(MachineArchitecture::Amd64));
        assert_eq!("i686".parse(), Ok(MachineArchitecture::Amd64));
        assert_eq!("vax".parse::<MachineArchitecture>(), Err(Unknown("vax".into()).into()));
        let error = Architecture::S390x.machine().unwrap_err();
        assert!(error.to_string().contains("s390x"), "{error}");
    }

    #[test]
    fn records_have_the_names_of_debian() {
        for known in Architecture::ALL {
            let text = format!("{known:?}").to_lowercase();
            assert_eq!(text, known.debian(), "what serde writes");
        }
    }

    #[test]
    fn this_host_has_a_name() {
        assert!(Architecture::of_host().is_some(), "{}", std::env::consts::ARCH);
    }
}
