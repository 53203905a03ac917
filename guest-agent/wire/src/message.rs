//! Requests and replies as data. Paths and strings are UTF-8: what vbuild names
//! in a guest is named by recipes, which are text.

use serde::{Deserialize, Serialize};

/// A channel of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Bytes towards the guest (standard input, `put`) or the only channel from
    /// the guest (`get`).
    Main = 0,
    /// Standard output of a process; a terminal's output.
    Stdout = 1,
    /// Standard error of a process.
    Stderr = 2,
}

impl Channel {
    /// The channel with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Main),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }
}

/// The length of [`Request::Hello`]'s random bytes: the strength of the kernel's generator.
pub const ENTROPY_BYTES: usize = 32;

/// What the host asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The first request on a connection. Answer: [`Reply::Hello`].
    Hello {
        /// The host's [`crate::PROTOCOL_VERSION`].
        version: u32,
        /// Nanoseconds since the epoch; the agent sets the guest's clock to it.
        clock_unix_ns: u64,
        /// Random bytes of the host, which the guest's kernel mixes into its generator
        /// before the reply. A machine that was restored from memory would otherwise
        /// produce the same random numbers as every other one of that memory.
        entropy: [u8; ENTROPY_BYTES],
    },
    /// Runs a process. Answers: [`Reply::Started`], then data, then
    /// [`Reply::Exited`] (final) or [`Reply::Failed`].
    Spawn(Spawn),
    /// Sets the size of the terminal of a spawn stream.
    Resize {
        /// The stream of the spawn.
        stream: u32,
        /// The terminal's size.
        size: TerminalSize,
    },
    /// Creates or replaces one file with the bytes of [`Channel::Main`], which
    /// end with an `end` frame. Written to a temporary name first, and owned by the
    /// agent's user, which is root.
    PutFile {
        /// Directory that absolute paths are relative to, resolved without
        /// leaving it (symlinks included); `/` for the agent's own root.
        root: String,
        /// The file.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Sends one file over [`Channel::Main`].
    GetFile {
        /// As in [`Request::PutFile`].
        root: String,
        /// The file.
        path: String,
        /// Fail when it is larger, before any byte is sent.
        max_bytes: u64,
    },
    /// Unpacks the tar stream of [`Channel::Main`] below `path`, keeping owners,
    /// modes, links, devices and extended attributes (PAX). Existing
    /// directories are merged; entries may not leave `path`.
    PutTar {
        /// As in [`Request::PutFile`].
        root: String,
        /// The directory; created when missing.
        path: String,
    },
    /// Packs a tree as a PAX tar stream onto [`Channel::Main`], sorted by name,
    /// with hard links, sparse files as plain files, xattrs, numeric owners.
    GetTar {
        /// As in [`Request::PutFile`].
        root: String,
        /// The directory whose content is packed; names are relative to it.
        path: String,
        /// Paths relative to `path` that are left out with everything below;
        /// `dir/*` leaves out the content and keeps the directory.
        exclude: Vec<String>,
    },
    /// A small operation on the file tree, without the cost of a process.
    File(FileOperation),
    /// Lists block devices. Answer: [`Reply::BlockDevices`].
    BlockDevices {},
    /// Writes the bytes of [`Channel::Main`] to a whole disk at an offset.
    BlockWrite {
        /// The device's path, such as `/dev/vda`.
        device: String,
        /// Where the first byte goes.
        offset: u64,
    },
    /// Makes the kernel read the partition table again and waits until the node
    /// of each partition exists. Answer: [`Reply::BlockDevices`] of that disk.
    BlockReread {
        /// The whole disk.
        device: String,
    },
    /// Mounts, creating the mount point where it is missing.
    Mount(MountSpec),
    /// Unmounts a mount point, and first everything that is mounted below it.
    Unmount {
        /// The mount point.
        path: String,
        /// Whether a busy mount is detached lazily.
        lazy: bool,
    },
    /// Lists mounts. Answer: [`Reply::Mounts`].
    Mounts {},
    /// Flushes every filesystem.
    Sync {},
    /// Freezes filesystems (FIFREEZE), in the order given; on an error those
    /// already frozen are thawed.
    Freeze {
        /// Mount points.
        paths: Vec<String>,
    },
    /// Thaws filesystems.
    Thaw {
        /// Mount points.
        paths: Vec<String>,
    },
    /// Gives the guest a network whose only way out is [`crate::EGRESS_PORT`]:
    /// a dummy interface with a default route, a resolver on 127.0.0.1, and a
    /// redirect of all TCP to the agent.
    NetworkUp {},
    /// Gives the driver back to disks that were parked by [`crate::PARK_WORD`]; it probes them
    /// anew.
    Unpark {
        /// The number of disks, from the first one there; the others stay parked.
        count: usize,
    },
    /// Ends every process and the machine. Answer: [`Reply::Done`], after which
    /// the connection ends.
    Shutdown {
        /// Unmount and flush first. False only for a guest that is thrown away.
        clean: bool,
    },
    /// Ends the agent the hard way: for tests of what the host then does.
    Crash {
        /// The way to go down.
        how: CrashKind,
    },
}

/// Ways to go down, for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrashKind {
    /// The agent exits.
    AgentExit,
    /// The kernel panics.
    KernelPanic,
    /// The machine powers off without a word.
    PowerOff,
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// Program and arguments. A program without a slash is looked up in the
    /// `PATH` of `env`, inside `root`.
    pub argv: Vec<String>,
    /// The whole environment, in order; nothing is added.
    pub env: Vec<(String, String)>,
    /// The working directory, inside `root`.
    pub cwd: String,
    /// The directory that becomes `/`; `None` for the agent's own root.
    pub root: Option<String>,
    /// What standard input is.
    pub stdin: Stdin,
    /// Whether standard error goes where standard output goes.
    pub merge_stderr: bool,
    /// A terminal instead of pipes: input and output are its master side.
    pub terminal: Option<TerminalSize>,
    /// Kill the process group after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Whether calls that wait for disks (fsync, fdatasync, msync, sync, syncfs,
    /// sync_file_range) succeed at once without doing anything, for the process and
    /// all that it starts.
    pub ignore_sync: bool,
}

/// Standard input of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Null,
    /// The bytes of [`Channel::Main`].
    Stream,
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Rows of characters.
    pub rows: u16,
    /// Columns of characters.
    pub columns: u16,
}

/// A mount, as mount(2) takes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// Device, directory (for a bind) or name.
    pub source: String,
    /// Mount point; created (as directory, or as file when a bind's source is
    /// one) where it is missing.
    pub target: String,
    /// Filesystem type; empty for a bind.
    pub fstype: String,
    /// Options as in mount(8): flags (`ro`, `nosuid`, `bind`, `rbind`, `remount`, `private`, …)
    /// are recognised, the rest is data for the filesystem. A read-only bind
    /// is remounted as needed.
    pub options: Vec<String>,
}

/// A small operation on the file tree. `root` is as in [`Request::PutFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FileOperation {
    /// Answer: [`Reply::Stat`].
    Stat {
        /// Root directory.
        root: String,
        /// The path; a final symlink is not followed.
        path: String,
    },
    /// Answer: [`Reply::Entries`], sorted by name bytes.
    List {
        /// Root directory.
        root: String,
        /// The directory.
        path: String,
    },
    /// Makes a directory and its missing parents (0755); an existing one stays as it is.
    MakeDirectory {
        /// Root directory.
        root: String,
        /// The directory.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a symbolic link, replacing an existing file or link.
    Symlink {
        /// Root directory.
        root: String,
        /// The link.
        path: String,
        /// What it says.
        target: String,
    },
    /// Removes a file, link or tree, without descending into other filesystems. A missing
    /// one is not an error.
    Remove {
        /// Root directory.
        root: String,
        /// The path.
        path: String,
        /// Keep the directory itself, remove what is in it.
        content_only: bool,
    },
    /// Renames within one filesystem.
    Rename {
        /// Root directory.
        root: String,
        /// The present path.
        from: String,
        /// The new path.
        to: String,
    },
    /// Truncates every regular file below a directory to nothing.
    TruncateAll {
        /// Root directory.
        root: String,
        /// The directory.
        path: String,
    },
    /// Adds up a tree as `du -x -k` does. Answer: [`Reply::Usage`].
    Usage {
        /// Root directory.
        root: String,
        /// The directory.
        path: String,
    },
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello {
        /// The agent's [`crate::PROTOCOL_VERSION`].
        version: u32,
        /// The kernel's release.
        kernel: String,
        /// Microseconds from the kernel's start to this reply.
        uptime_us: u64,
    },
    /// The request is carried out.
    Done {},
    /// The process runs.
    Started {
        /// The id of the process in the guest.
        pid: u32,
    },
    /// The process has ended and its output is complete.
    Exited {
        /// How the process ended.
        status: ExitStatus,
        /// User plus system time in milliseconds, children included.
        cpu_ms: u64,
    },
    /// To a listing of block devices.
    BlockDevices {
        /// Whole disks and partitions.
        devices: Vec<BlockDevice>,
    },
    /// To [`Request::Mounts`].
    Mounts {
        /// In the order of `/proc/self/mountinfo`.
        mounts: Vec<MountEntry>,
    },
    /// To [`FileOperation::Stat`].
    Stat {
        /// `None` when there is nothing.
        stat: Option<FileStat>,
    },
    /// To [`FileOperation::List`].
    Entries {
        /// Name and status of each entry.
        entries: Vec<(String, FileStat)>,
    },
    /// To [`FileOperation::Usage`].
    Usage {
        /// Allocated KiB, directories included.
        kib: u64,
    },
    /// The request failed; the stream is over.
    Failed(Failure),
}

impl Reply {
    /// Whether this reply ends its stream.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Started { .. })
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{action}: {reason}")]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What was being done, with the path.
    pub action: String,
    /// The cause, as text.
    pub reason: String,
    /// The system's error number where there is one.
    pub errno: Option<i32>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Its time was up, and vbuild killed it.
    TimedOut,
}

impl ExitStatus {
    /// Whether it is exit code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockDevice {
    /// Its node, such as `/dev/vda1`.
    pub path: String,
    /// The serial of the disk (of its disk, for a partition); may be empty.
    pub serial: String,
    /// The number of the partition; `None` for a whole disk.
    pub partition: Option<u32>,
    /// Size in bytes.
    pub bytes: u64,
}

/// A line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountEntry {
    /// Source as mountinfo shows it.
    pub source: String,
    /// The root of the mount within its filesystem.
    pub root: String,
    /// Mount point.
    pub target: String,
    /// Filesystem type.
    pub fstype: String,
    /// Per-mount options, comma separated.
    pub options: String,
    /// `major:minor`.
    pub device: String,
}

/// What stat(2) says, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStat {
    /// The type of the file.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The target of a symbolic link.
    pub link: Option<String>,
}

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Special,
}
