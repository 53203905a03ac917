//! The names under which vbuild is started, and the command line that each of them has.
//!
//! A drop-in for another program has that program's name in its help and its errors, its
//! letters, its rules of getopt and its version, and no verbs. What the other program
//! does not have, vbuild's options add.

use std::{ffi::OsString, path::Path};

use clap::{Args as _, Command};

use super::{build::BuildArgs, getopt::Syntax};

/// The version of virt-dib whose behaviour vbuild has; it was the last one.
const VIRT_DIB_VERSION: &str = concat!("1.48 (vbuild ", env!("CARGO_PKG_VERSION"), ")");

/// The name under which vbuild was started decides whose command line it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Personality {
    /// The command line of vbuild itself.
    Vbuild,
    /// virt-dib's: the same without verbs.
    VirtDib,
    /// disk-image-create's: no verbs, `-p` takes packages, and variables of the
    /// environment that diskimage-builder reads are read.
    DiskImageCreate,
    /// ramdisk-image-create's: as above, and `--ramdisk` is given.
    RamdiskImageCreate,
    /// vmdb2's: the verb `vmdb`.
    Vmdb2,
    /// b9c's: the verb `b9`.
    B9c,
}

impl Personality {
    /// By the last part of the program's name.
    pub(crate) fn of(program: &OsString) -> Self {
        match Path::new(program).file_name().and_then(|name| name.to_str()) {
            Some("virt-dib") => Self::VirtDib,
            Some("disk-image-create") => Self::DiskImageCreate,
            Some("ramdisk-image-create") => Self::RamdiskImageCreate,
            Some("vmdb2") => Self::Vmdb2,
            Some("b9c") => Self::B9c,
            _ => Self::Vbuild,
        }
    }

    /// The program's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Vbuild => "vbuild",
            Self::VirtDib => "virt-dib",
            Self::DiskImageCreate => "disk-image-create",
            Self::RamdiskImageCreate => "ramdisk-image-create",
            Self::Vmdb2 => "vmdb2",
            Self::B9c => "b9c",
        }
    }

    /// Whether its command line, without a verb, is that of a build with elements.
    pub(super) fn builds_elements(self) -> bool {
        !matches!(self, Self::Vmdb2 | Self::B9c)
    }

    /// Whether the environment is input, as it is for diskimage-builder.
    pub(crate) fn reads_dib_environment(self) -> bool {
        matches!(self, Self::DiskImageCreate | Self::RamdiskImageCreate)
    }

    /// The rules of getopt by which the command line of a build is read.
    pub(super) fn syntax(self) -> Syntax {
        if self.reads_dib_environment() { Syntax::Long } else { Syntax::LongOnly }
    }

    /// The clap command of a program that builds with elements and has no verbs, complete with
    /// what clap adds.
    pub(crate) fn build_command(self) -> Command {
        let command = self.of_a_build();
        let mut command = match self.reads_dib_environment() {
            true => with_letters_of_disk_image_create(command).version(dib::VERSION),
            false => command.version(VIRT_DIB_VERSION),
        };
        command.build();
        command
    }

    /// A build with elements, and nothing else.
    fn of_a_build(self) -> Command {
        let name = self.name();
        BuildArgs::augment_args(Command::new(name))
            .about("Builds disk images from elements of diskimage-builder, as an ordinary user")
            .override_usage(format!("{name} [OPTIONS] ELEMENT..."))
            .after_help(format!(
                "This is vbuild under the name of {name}. Options and elements may be mixed, and a long \
                 option may be given by any unambiguous prefix. vbuild(1) tells it all, and what differs \
                 from {name}."
            ))
            .args_override_self(true)
    }

    /// What `--version` prints.
    pub(super) fn version(self, rendered: String) -> String {
        match self {
            // Scripts compare what diskimage-builder prints, which is the number alone.
            Self::DiskImageCreate | Self::RamdiskImageCreate => format!("{}\n", dib::VERSION),
            Self::Vbuild | Self::VirtDib | Self::Vmdb2 | Self::B9c => rendered,
        }
    }
}

/// Letters that vbuild has for other options, or only knows beside its own.
fn with_letters_of_disk_image_create(command: Command) -> Command {
    let letter = |id: &'static str, letter: char| {
        move |command: Command| {
            command.mut_arg(id, |arg| arg.short_alias(None::<char>).short(letter))
        }
    };
    let command = command.mut_arg("element_path", |arg| arg.short(None::<char>));
    let command = letter("extra_packages", 'p')(command);
    let command = letter("name", 'o')(command);
    let command = letter("formats", 't')(command);
    letter("arch", 'a')(command)
}
