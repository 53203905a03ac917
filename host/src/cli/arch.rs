//! The option for the architecture of a machine that no recipe determines.

use clap::Args;
use machine::MachineArchitecture;

/// The option for the architecture of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
pub(crate) struct ArchArgs {
    /// Architecture of the machine: amd64 or arm64 [default: the host's]
    ///
    /// QEMU emulates an architecture that is not this host's.
    #[arg(short = 'a', long, value_name = "ARCH")]
    pub(crate) arch: Option<MachineArchitecture>,
}

impl ArchArgs {
    /// Returns the architecture that was given, or that of this host.
    pub(crate) fn machine(&self) -> MachineArchitecture {
        self.arch.unwrap_or_else(MachineArchitecture::of_host)
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    #[test]
    fn an_architecture_has_a_machine_or_a_reason() {
        let machine = |word| {
            let command = ArchArgs::augment_args(clap::Command::new("x"));
            let matches = command.try_get_matches_from(["x", "-a", word]);
            let args = matches.and_then(|matches| ArchArgs::from_arg_matches(&matches));
            args.map(|args| args.machine()).map_err(|error| error.to_string())
        };
        assert_eq!(machine("aarch64"), Ok(MachineArchitecture::Arm64));
        assert_eq!(machine("i386"), Ok(MachineArchitecture::Amd64));
        assert!(machine("s390x").unwrap_err().contains("no machine"));
        assert!(machine("vax").unwrap_err().contains("vax"));
    }
}
