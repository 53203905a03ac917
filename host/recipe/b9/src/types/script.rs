//! Scripts that run in images.

use super::MountPoint;
use crate::{haskell::terms, place::Text};

terms! {
    /// The script of an artifact, with its shared directories.
    pub enum VmScript = "VmScript" {
        /// A script.
        Run = "VmScript"(arch: CpuArch, shares: Vec<SharedDirectory>, script: Script),
        /// No script.
        None = "NoVmScript",
    }
}

terms! {
    /// The CPU architecture for a script.
    #[derive(Copy, PartialEq, Eq)]
    pub enum CpuArch = "CPUArch" {
        /// 64-bit x86.
        X86 = "X86_64",
        /// 32-bit x86.
        I386 = "I386",
    }
}

terms! {
    /// A directory shared with a script.
    pub enum SharedDirectory = "SharedDirectory" {
        /// A host directory; changes are written back.
        ReadWrite = "SharedDirectory"(directory: Text, at: MountPoint),
        /// A read-only host directory.
        ReadOnly = "SharedDirectoryRO"(directory: Text, at: MountPoint),
        /// The generated files of the artifact, read-only.
        Sources = "SharedSources"(at: MountPoint),
    }
}

terms! {
    /// Commands with the settings under which they run; inner settings override outer ones.
    pub enum Script = "Script" {
        /// The working directory.
        In = "In"(directory: Text, body: Vec<Script>),
        /// The user.
        As = "As"(user: Text, body: Vec<Script>),
        /// Whether a failing command is ignored.
        IgnoreErrors = "IgnoreErrors"(ignore: bool, body: Vec<Script>),
        /// How much output is shown.
        Verbosity = "Verbosity"(verbosity: CmdVerbosity, body: Vec<Script>),
        /// Commands in sequence.
        Begin = "Begin"(body: Vec<Script>),
        /// A command: words of bash, with single spaces between them.
        Run = "Run"(command: Text, arguments: Vec<Text>),
        /// No command.
        NoOp = "NoOP",
    }
}

terms! {
    /// How much output of commands is shown.
    #[derive(Copy, PartialEq, Eq)]
    pub enum CmdVerbosity = "CmdVerbosity" {
        /// All output.
        Debug = "Debug",
        /// All output.
        Verbose = "Verbose",
        /// Standard error only.
        OnlyStdErr = "OnlyStdErr",
        /// No output.
        Quiet = "Quiet",
    }
}
