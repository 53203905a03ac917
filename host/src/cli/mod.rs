//! The parts of every command line: groups of options, the values that they take, and the two
//! parsers, getopt and clap. This module does no I/O, reads no environment, and has no defaults
//! that depend on the machine. The verbs are defined in [`crate::commands`].
//!
//! ```text
//! argv ──► personality (by the program's name) ──► getopt pass ──► clap ──► arguments
//! ```

mod arch;
mod backing;
mod build;
pub(crate) mod classes;
mod formats;
mod getopt;
mod host_paths;
mod line;
mod network;
mod personality;
mod reuse;
mod short_help;
mod usage;
mod values;
pub(crate) mod verbs;

pub(crate) use arch::ArchArgs;
pub(crate) use backing::BackingArgs;
pub(crate) use build::{
    AccelArgs, BuildArgs, BuilderArgs, ElementArgs, GuestArgs, MachineArgs, MemoryArgs, OutputArgs,
    PackageArgs, ProcessorArgs, ScriptArgs, ViewArgs,
};
pub(crate) use classes::{Words, recipe_words};
pub(crate) use formats::{
    ChecksumKind, ContainerEngine, Formats, format_names, parse as parse_formats,
};
#[cfg(test)]
pub(crate) use getopt::VIRT_DIB_OPTIONS;
pub(crate) use host_paths::HostPathArgs;
pub(crate) use line::{BuildLine, Matched, build_line, matches, parse_build, verb_of};
pub(crate) use network::{ReachArgs, SourceArgs};
pub(crate) use personality::Personality;
pub(crate) use reuse::{CacheDirArgs, OnFailureArg, ReuseArgs};
pub(crate) use short_help::shorten;
pub(crate) use usage::{in_name_of, usage};
pub(crate) use values::{
    Age, ByteSize, CaBundle, EnvVar, InvalidValue, MachineReadable, Share, age, comma_list,
    drive_format, positive, smp,
};
