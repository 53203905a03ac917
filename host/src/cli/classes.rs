//! The class of every option of a build: which part of the result may depend on it. The class
//! decides whether scripts see the option in `DIB_ARGS`.

use std::ffi::OsString;

use clap::Command;

use super::{
    getopt::{Options, Syntax},
    line::verb_of,
    personality::Personality,
};

/// The part of a build's result that may depend on an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The content of the image: every script sees the option in `DIB_ARGS`.
    Content,
    /// Only the formats and names of the outputs: scripts before cleanup.d do not see the option,
    /// so that another format does not require a new build.
    Outputs,
    /// No part: scripts do not see the option. Effects that matter (the network, certificates, the
    /// appliance) are part of the keys of stages by themselves.
    Nothing,
}

/// The class of every long option of the verbs that build with elements. A test fails if an option
/// is missing here.
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

/// Returns the long options of some classes.
pub(crate) fn options_of(classes: &[Class]) -> Vec<&'static str> {
    let wanted = CLASSES.iter().filter(|(class, _)| classes.contains(class));
    wanted.flat_map(|(_, names)| names.iter().copied()).collect()
}

/// A selection of the words of a command line that scripts see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Words {
    /// The words that say what is built: `DIB_ARGS` of cleanup.d.
    Recipe,
    /// Only those that may affect the content of the tree: `DIB_ARGS` of all earlier phases.
    Content,
}

/// Returns the selected words of a command line, as typed.
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
