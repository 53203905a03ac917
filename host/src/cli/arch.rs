//! The architecture of a machine that no recipe decides about.

use clap::Args;
use machine::MachineArchitecture;
use plan::Architecture;

/// The architecture of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub(crate) struct ArchArgs {
    /// Architecture of the machine: amd64 or arm64 [default: the host's]
    ///
    /// QEMU emulates an architecture that is not this host's.
    #[arg(short = 'a', long, value_name = "ARCH", value_parser = machine)]
    pub(crate) arch: Option<MachineArchitecture>,
}

impl ArchArgs {
    /// The architecture that was given, or that of this host.
    pub(crate) fn machine(&self) -> MachineArchitecture {
        self.arch.unwrap_or_else(MachineArchitecture::of_host)
    }
}

fn machine(word: &str) -> Result<MachineArchitecture, String> {
    let known: Architecture = word.parse().map_err(|unknown| format!("{unknown}"))?;
    known.machine().map_err(|none| none.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_architecture_has_a_machine_or_a_reason() {
        assert_eq!(machine("aarch64"), Ok(MachineArchitecture::Arm64));
        assert_eq!(machine("i386"), Ok(MachineArchitecture::Amd64));
        assert!(machine("s390x").unwrap_err().contains("no machine"));
        assert!(machine("vax").unwrap_err().contains("vax"));
    }
}
