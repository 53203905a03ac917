//! The class of every option of a build: what its result may depend on, and so which
//! words of a command line scripts see in `DIB_ARGS`.

use std::ffi::OsString;

use clap::Command;

use super::{
    getopt::{Options, Syntax},
    line::verb_of,
    personality::Personality,
};

/// What the result of a build may depend on by an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The content of the image: every script sees the option in DIB_ARGS.
    Content,
    /// In which formats it is written, and where: scripts before cleanup.d do not see
    /// it, so that another format needs no new build.
    Outputs,
    /// Nothing. What there is to depend on (the network, certificates, the appliance)
    /// is in the keys of stages by itself.
    Nothing,
}

/// The class of every long option of the verbs that build with elements; a test refuses
/// one that is missing here.
const CLASSES: &[(Class, &[&str])] = &[
    (
        Class::Content,
        &[
            "element-path",
            "base-path",
            "exclude-element",
            "exclude-script",
            "skip-base",
            "clear-environment",
            "ramdisk",
            "ramdisk-element",
            "extra-packages",
            "install-type",
            "envvar",
            "share",
            "image-cache",
            "python",
            "offline",
            "trace",
            "arch",
            "size",
            "image-size",
            "image-extra-size",
            "fs-type",
            "mkfs-options",
            "mkfs-journal-size",
            "max-online-resize",
            "root-label",
        ],
    ),
    (
        Class::Outputs,
        &["checksum", "docker-target", "formats", "name", "qemu-img-options", "uncompressed"],
    ),
    (
        Class::Nothing,
        &[
            "accel",
            "allow-host",
            "allow-private",
            "appliance-package",
            "at",
            "ca-bundle",
            "cache",
            "cache-dir",
            "cold",
            "colours",
            "debug",
            "debug-shell",
            "drive",
            "drive-format",
            "help",
            "json",
            "keep-sync",
            "load-into",
            "logfile",
            "long-options",
            "machine-readable",
            "max-age",
            "memsize",
            "min-tmpfs",
            "mirror",
            "network",
            "no-cache",
            "no-delete-on-failure",
            "no-network",
            "no-tmpfs",
            "on-failure",
            "proxy-resolves",
            "quiet",
            "refresh",
            "remote-cache",
            "remote-key",
            "remote-unsigned",
            "require-confinement",
            "short-options",
            "smp",
            "timeout",
            "verbose",
            "version",
            "wrap",
        ],
    ),
];

/// The options of some classes.
pub(crate) fn options_of(classes: &[Class]) -> Vec<&'static str> {
    let wanted = CLASSES.iter().filter(|(class, _)| classes.contains(class));
    wanted.flat_map(|(_, names)| names.iter().copied()).collect()
}

/// Which words of a command line scripts see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// Those that say what is built: what diskimage-builder's scripts know as
    /// DIB_ARGS.
    Recipe,
    /// Of those, the ones that the content of the tree may depend on.
    Content,
}

/// Words of a command line, as typed.
pub(crate) fn recipe_words(
    words: Words,
    personality: Personality,
    command: &Command,
    args: &[OsString],
) -> Vec<OsString> {
    let unwanted = match words {
        Words::Recipe => options_of(&[Class::Nothing]),
        Words::Content => options_of(&[Class::Nothing, Class::Outputs]),
    };
    match verb_of(command, args) {
        Some(verb) => Options::of(verb, Syntax::LongOnly).without(&args[1..], &unwanted),
        None => Options::of(command, personality.syntax()).without(args, &unwanted),
    }
}
