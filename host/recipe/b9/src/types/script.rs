//! Scripts that run in images.

use super::MountPoint;
use crate::{haskell::terms, place::Text};

terms! {
    /// The script of an artifact, and what it sees.
    pub enum VmScript = "VmScript" {
        /// A script.
        Run = "VmScript"(arch: CpuArch, shares: Vec<SharedDirectory>, script: Script),
        /// No script.
        None = "NoVmScript",
    }
}

terms! {
    /// The processor that a script sees.
    #[derive(Copy, PartialEq, Eq)]
    pub enum CpuArch = "CPUArch" {
        /// 64 bits.
        X86 = "X86_64",
        /// 32 bits.
        I386 = "I386",
    }
}

terms! {
    /// A directory that a script sees.
    pub enum SharedDirectory = "SharedDirectory" {
        /// One of the host, which comes back with what was written.
        ReadWrite = "SharedDirectory"(directory: Text, at: MountPoint),
        /// One of the host.
        ReadOnly = "SharedDirectoryRO"(directory: Text, at: MountPoint),
        /// The generated files of the artifact, which can only be read.
        Sources = "SharedSources"(at: MountPoint),
    }
}

terms! {
    /// Commands, and the circumstances in which they run; the innermost count.
    pub enum Script = "Script" {
        /// The working directory.
        In = "In"(directory: Text, body: Vec<Script>),
        /// The user.
        As = "As"(user: Text, body: Vec<Script>),
        /// Whether a failing command is ignored.
        IgnoreErrors = "IgnoreErrors"(ignore: bool, body: Vec<Script>),
        /// What is shown of the output.
        Verbosity = "Verbosity"(verbosity: CmdVerbosity, body: Vec<Script>),
        /// Commands one by one.
        Begin = "Begin"(body: Vec<Script>),
        /// A command: words of bash, with single spaces between them.
        Run = "Run"(command: Text, arguments: Vec<Text>),
        /// Does nothing.
        NoOp = "NoOP",
    }
}

terms! {
    /// What is shown of the output of commands.
    #[derive(Copy, PartialEq, Eq)]
    pub enum CmdVerbosity = "CmdVerbosity" {
        /// Shows everything.
        Debug = "Debug",
        /// Shows everything.
        Verbose = "Verbose",
        /// Standard error.
        OnlyStdErr = "OnlyStdErr",
        /// Shows nothing.
        Quiet = "Quiet",
    }
}
