//! The names under which vbuild can be started, and the command line of each.
//!
//! Under the name of another program, vbuild has that program's name in its help and its errors,
//! its option letters, its getopt rules and its version, and none of its own verbs. Options that
//! the other program does not have are available, too.

use std::{ffi::OsString, path::Path};

use clap::{Args as _, Command};

use super::{build::BuildArgs, getopt::Syntax};

/// The version of virt-dib whose behaviour vbuild reproduces; it was the last one.
const VIRT_DIB_VERSION: &str = concat!("1.48 (vbuild ", env!("CARGO_PKG_VERSION"), ")");

/// The name under which vbuild was started, which decides whose command line it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Personality {
    /// The command line of vbuild itself.
    Vbuild,
    /// The command line of virt-dib: that of vbuild without verbs.
    VirtDib,
    /// The command line of disk-image-create: no verbs, `-p` takes packages, and the environment
    /// variables of diskimage-builder are read.
    DiskImageCreate,
    /// The command line of ramdisk-image-create: that of disk-image-create, with `--ramdisk` given.
    RamdiskImageCreate,
    /// The command line of vmdb2: that of the verb `vmdb`.
    Vmdb2,
    /// The command line of b9c: that of the verb `b9`.
    B9c,
}

impl Personality {
    /// Returns the personality for the last part of the program's name.
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

    /// Returns the program's name.
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

    /// Whether the command line, without a verb, is that of a build with elements.
    pub(super) fn builds_elements(self) -> bool {
        !matches!(self, Self::Vmdb2 | Self::B9c)
    }

    /// Whether environment variables are input, as they are for diskimage-builder.
    pub(crate) fn reads_dib_environment(self) -> bool {
        matches!(self, Self::DiskImageCreate | Self::RamdiskImageCreate)
    }

    /// Returns the getopt rules for the command line of a build.
    pub(super) fn syntax(self) -> Syntax {
        if self.reads_dib_environment() { Syntax::Long } else { Syntax::LongOnly }
    }

    /// Returns the clap command of a program that builds with elements and has no verbs, including
    /// what clap adds to it.
    pub(crate) fn build_command(self) -> Command {
        let command = self.of_a_build();
        let mut command = match self.reads_dib_environment() {
            true => with_letters_of_disk_image_create(command).version(dib::VERSION),
            false => command.version(VIRT_DIB_VERSION),
        };
        command.build();
        command
    }

    /// Returns the command with the options of a build with elements, and nothing else.
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

    /// Returns what `--version` prints, given what clap has rendered.
    pub(super) fn version(self, rendered: String) -> String {
        match self {
            // Scripts compare the output of diskimage-builder, which is only the number.
            Self::DiskImageCreate | Self::RamdiskImageCreate => format!("{}\n", dib::VERSION),
            Self::Vbuild | Self::VirtDib | Self::Vmdb2 | Self::B9c => rendered,
        }
    }
}

/// Gives options the letters of disk-image-create, which in vbuild belong to other options or are
/// hidden aliases.
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
