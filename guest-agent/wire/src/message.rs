//! The requests and replies. Paths and strings are UTF-8: the paths that vbuild uses in a guest
//! come from recipes, which are text.

use serde::{Deserialize, Serialize};

/// A channel of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Bytes to the guest (standard input, uploads, disk writes), or the bytes of a download from
    /// the guest.
    Main = 0,
    /// Standard output of a process, or the output of its terminal.
    Stdout = 1,
    /// Standard error of a process.
    Stderr = 2,
}

impl Channel {
    /// Returns the channel with this number.
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

/// The number of random bytes in [`Request::Hello`]: 256 bits, the strength of the kernel's random
/// number generator.
pub const ENTROPY_BYTES: usize = 32;

/// A request of the host to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The first request on a connection. Answer: [`Reply::Hello`].
    Hello {
        /// The host's [`crate::PROTOCOL_VERSION`].
        version: u32,
        /// The current time in nanoseconds since the epoch, to which the agent sets the guest's
        /// clock.
        clock_unix_ns: u64,
        /// Random bytes from the host, which the agent adds to the kernel's random number generator
        /// before it replies. Otherwise all machines that are restored from the same memory would
        /// produce the same random numbers.
        entropy: [u8; ENTROPY_BYTES],
    },
    /// Runs a process. Answers: [`Reply::Started`], then data, then [`Reply::Exited`] (final) or
    /// [`Reply::Failed`].
    Spawn(Spawn),
    /// Sets the size of the terminal of a spawn stream.
    Resize {
        /// The number of the spawn stream.
        stream: u32,
        /// The new size of the terminal.
        size: TerminalSize,
    },
    /// Creates or replaces one file with the bytes of [`Channel::Main`], which end with an `end`
    /// frame. The agent writes them to a temporary file and then renames it. The file belongs to
    /// the agent's user, which is root.
    PutFile {
        /// The directory to which `path` is relative, even if `path` is absolute. The path and its
        /// symbolic links are resolved without leaving this directory. `/` is the agent's own root.
        root: String,
        /// The path of the file.
        path: String,
        /// The permission bits of the file.
        mode: u32,
    },
    /// Sends one file over [`Channel::Main`].
    GetFile {
        /// The root directory, as in [`Request::PutFile`].
        root: String,
        /// The path of the file.
        path: String,
        /// The maximum size in bytes. A larger file is refused before any byte is sent, unless it
        /// grows or its size is not known in advance.
        max_bytes: u64,
    },
    /// Unpacks the tar stream of [`Channel::Main`] below `path`, keeping owners,
    /// modes, links, devices and extended attributes (PAX). Existing
    /// directories are merged; entries may not leave `path`.
    PutTar {
        /// The root directory, as in [`Request::PutFile`].
        root: String,
        /// The directory, created if it does not exist.
        path: String,
    },
    /// Packs a tree as a PAX tar stream, and sends it on [`Channel::Main`]. The entries are sorted
    /// by name, with hard links, extended attributes and numeric owners; sparse files are packed as
    /// plain files.
    GetTar {
        /// The root directory, as in [`Request::PutFile`].
        root: String,
        /// The directory whose content is packed; names are relative to it.
        path: String,
        /// Paths relative to `path` that are omitted with everything below them; `dir/*` omits the
        /// content of a directory and keeps the directory.
        exclude: Vec<String>,
    },
    /// Performs a small operation on files, without the cost of a process.
    File(FileOperation),
    /// Lists block devices. Answer: [`Reply::BlockDevices`].
    BlockDevices {},
    /// Writes the bytes of [`Channel::Main`] to a disk at an offset.
    BlockWrite {
        /// The path of the disk, such as `/dev/vda`.
        device: String,
        /// The offset of the first byte, in bytes.
        offset: u64,
    },
    /// Makes the kernel read the partition table of a disk again, and waits until the device node
    /// of each partition exists. Answer: [`Reply::BlockDevices`] with this disk and its partitions.
    BlockReread {
        /// The path of the whole disk.
        device: String,
    },
    /// Mounts a filesystem, and creates the mount point if it does not exist.
    Mount(MountSpec),
    /// Unmounts a mount point, after everything that is mounted below it.
    Unmount {
        /// The mount point.
        path: String,
        /// Whether to detach the mounts lazily (MNT_DETACH), which also works if they are busy.
        lazy: bool,
    },
    /// Lists mounts. Answer: [`Reply::Mounts`].
    Mounts {},
    /// Flushes every filesystem.
    Sync {},
    /// Freezes filesystems (FIFREEZE) in the given order. If one of them cannot be frozen, those
    /// already frozen are thawed.
    Freeze {
        /// The mount points of the filesystems.
        paths: Vec<String>,
    },
    /// Thaws filesystems (FITHAW) in reverse order; all of them, even if one fails.
    Thaw {
        /// The mount points of the filesystems.
        paths: Vec<String>,
    },
    /// Sets up a network in the guest whose only connection to the outside is
    /// [`crate::EGRESS_PORT`]: a dummy interface with a default route, a resolver on 127.0.0.1, and
    /// a redirection of all outgoing TCP connections to the agent.
    NetworkUp {},
    /// Binds the driver to disks that were parked by [`crate::PARK_WORD`], so that it probes them.
    Unpark {
        /// The number of disks to unpark, starting with the first; the others stay parked.
        count: usize,
    },
    /// Powers the machine off. Answer: [`Reply::Done`], after which the connection ends.
    Shutdown {
        /// Whether to end all processes first, and to unmount and flush all filesystems. False only
        /// for a guest whose disks are discarded.
        clean: bool,
    },
    /// Crashes the agent or the machine, for tests of what the host does then.
    Crash {
        /// The kind of crash.
        how: CrashKind,
    },
}

/// A kind of crash, for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrashKind {
    /// The agent exits.
    AgentExit,
    /// The kernel panics.
    KernelPanic,
    /// The machine powers off without a reply.
    PowerOff,
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// The program and its arguments. A program without a slash is looked up in the `PATH` of
    /// `env`, inside `root`.
    pub argv: Vec<String>,
    /// The whole environment, in order; no variables are added.
    pub env: Vec<(String, String)>,
    /// The working directory, inside `root`; `/` if empty.
    pub cwd: String,
    /// The directory that becomes `/`; `None` for the agent's own root.
    pub root: Option<String>,
    /// The source of standard input.
    pub stdin: Stdin,
    /// Whether standard error is merged into standard output.
    pub merge_stderr: bool,
    /// The size of a terminal that is used instead of pipes, if any. The input and the output of
    /// the stream are its master side.
    pub terminal: Option<TerminalSize>,
    /// The time in milliseconds after which the process and its session are killed.
    pub timeout_ms: Option<u64>,
    /// Whether calls that wait for disks (fsync, fdatasync, msync, sync, syncfs, sync_file_range)
    /// succeed immediately without doing anything, for the process and all its descendants.
    pub ignore_sync: bool,
}

/// Standard input of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stdin {
    /// An empty input: `/dev/null`.
    #[default]
    Null,
    /// The bytes of [`Channel::Main`].
    Stream,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// The number of rows.
    pub rows: u16,
    /// The number of columns.
    pub columns: u16,
}

/// A mount to perform, as in mount(2).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// The device, the file or directory (for a bind), or a name.
    pub source: String,
    /// The mount point. If it does not exist, it is created as a directory, or as a file if the
    /// source of a bind is one.
    pub target: String,
    /// The filesystem type; empty for a bind.
    pub fstype: String,
    /// The options, as in mount(8). Flags (`ro`, `nosuid`, `bind`, `rbind`, `remount`, `private`,
    /// …) are recognised, all others are passed to the filesystem as data. A bind with flags such
    /// as `ro` is remounted to set them.
    pub options: Vec<String>,
}

/// A small operation on the file tree. `root` is as in [`Request::PutFile`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FileOperation {
    /// Returns the status of a file. Answer: [`Reply::Stat`].
    Stat {
        /// Root directory.
        root: String,
        /// The path; a final symlink is not followed.
        path: String,
    },
    /// Lists a directory. Answer: [`Reply::Entries`], sorted by the bytes of the names.
    List {
        /// Root directory.
        root: String,
        /// The directory.
        path: String,
    },
    /// Creates a directory and its missing parents (0755). An existing directory is not changed.
    MakeDirectory {
        /// Root directory.
        root: String,
        /// The directory.
        path: String,
        /// The permission bits of the directory.
        mode: u32,
    },
    /// Creates a symbolic link, replacing an existing file or link.
    Symlink {
        /// Root directory.
        root: String,
        /// The path of the link.
        path: String,
        /// The target of the link.
        target: String,
    },
    /// Removes a file, link or tree, without descending into other filesystems. A path that does
    /// not exist is not an error.
    Remove {
        /// Root directory.
        root: String,
        /// The path.
        path: String,
        /// Whether to keep the directory itself, and to remove only its content.
        content_only: bool,
    },
    /// Renames a file within one filesystem.
    Rename {
        /// Root directory.
        root: String,
        /// The old path.
        from: String,
        /// The new path.
        to: String,
    },
    /// Truncates every regular file below a directory to zero bytes.
    TruncateAll {
        /// Root directory.
        root: String,
        /// The directory.
        path: String,
    },
    /// Computes the disk usage of a tree as `du -x -k` does. Answer: [`Reply::Usage`].
    Usage {
        /// Root directory.
        root: String,
        /// The directory.
        path: String,
    },
}

/// A reply of the agent to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// The answer to [`Request::Hello`].
    Hello {
        /// The agent's [`crate::PROTOCOL_VERSION`].
        version: u32,
        /// The kernel's release, as in `uname -r`.
        kernel: String,
        /// Microseconds from the kernel's start to this reply.
        uptime_us: u64,
    },
    /// The request was carried out.
    Done {},
    /// The process was started.
    Started {
        /// The id of the process in the guest.
        pid: u32,
    },
    /// The process has ended and its output is complete.
    Exited {
        /// How the process ended.
        status: ExitStatus,
        /// User and system time of the process in milliseconds, including that of its children.
        cpu_ms: u64,
    },
    /// The answer to [`Request::BlockDevices`] and [`Request::BlockReread`].
    BlockDevices {
        /// The whole disks and the partitions.
        devices: Vec<BlockDevice>,
    },
    /// The answer to [`Request::Mounts`].
    Mounts {
        /// The mounts in the order of `/proc/self/mountinfo`.
        mounts: Vec<MountEntry>,
    },
    /// The answer to [`FileOperation::Stat`].
    Stat {
        /// The status of the file; `None` if the path does not exist.
        stat: Option<FileStat>,
    },
    /// The answer to [`FileOperation::List`].
    Entries {
        /// The name and the status of each entry.
        entries: Vec<(String, FileStat)>,
    },
    /// The answer to [`FileOperation::Usage`].
    Usage {
        /// The allocated KiB, including directories.
        kib: u64,
    },
    /// The request failed. This reply ends the stream.
    Failed(Failure),
}

impl Reply {
    /// Whether this reply ends its stream.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Started { .. })
    }
}

/// The failure of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{action}: {reason}")]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The action that failed, with its path.
    pub action: String,
    /// The cause, as text.
    pub reason: String,
    /// The error number of the system, if there is one.
    pub errno: Option<i32>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// The process exited with this code.
    Code(i32),
    /// The process was killed by this signal.
    Signal(i32),
    /// The agent killed the process, because its time limit was exceeded or its stream was aborted.
    TimedOut,
}

impl ExitStatus {
    /// Whether the process exited with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// A disk or a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockDevice {
    /// The path of the device node, such as `/dev/vda1`.
    pub path: String,
    /// The serial of the disk, or of the disk of a partition; may be empty.
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
    /// The source of the mount, as in mountinfo.
    pub source: String,
    /// The root of the mount within its filesystem.
    pub root: String,
    /// Mount point.
    pub target: String,
    /// Filesystem type.
    pub fstype: String,
    /// Per-mount options, comma separated.
    pub options: String,
    /// The number of the filesystem's device, as `major:minor`.
    pub device: String,
}

/// The part of the result of stat(2) that the host uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStat {
    /// The type of the file.
    pub kind: FileKind,
    /// The permission bits, with the setuid, setgid and sticky bits.
    pub mode: u32,
    /// The target of a symbolic link; `None` for other files.
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
