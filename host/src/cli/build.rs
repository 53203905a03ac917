//! The options of a build, as typed, for the default verb and for all verbs with the same command
//! line. They are grouped by purpose, in the order of `--help`.
//!
//! The doc comments are the manual: `-h` shows the first paragraph of each, `--help` and vbuild(1)
//! show all of it.

use std::path::PathBuf;

use clap::{ArgAction, Args, builder::ValueParser};
use machine::{DriveFormat, accel::Accel};

use super::formats::{ChecksumKind, ContainerEngine};
use super::network::{NETWORK, NetworkArgs};
use super::reuse::{CacheDirArgs, ReuseArgs};
use super::values::{
    ByteSize, EnvVar, MachineReadable, Share, accel, debug_level, drive_format, image_extra_size,
    image_size, max_online_resize, memsize, positive, smp,
};

const ELEMENTS: &str = "Elements";
const SCRIPTS: &str = "What scripts see";
const IMAGE: &str = "The image";
const CACHES: &str = "Caches";
const MACHINE: &str = "The machine";
const OUTPUT: &str = "What vbuild tells";

fn path() -> ValueParser {
    ValueParser::path_buf()
}

/// The options of a build.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct BuildArgs {
    /// The options for the elements.
    #[command(flatten)]
    pub(crate) elements: ElementArgs,
    /// The options for what scripts see.
    #[command(flatten)]
    pub(crate) scripts: ScriptArgs,
    /// The options for the image.
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// The options for the machine and the caches.
    #[command(flatten)]
    pub(crate) builder: BuilderArgs,
    /// The options for tmpfs, which do not change the build.
    #[command(flatten)]
    pub(crate) tmpfs: TmpfsArgs,
    /// The options for what is shown and logged.
    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// List every long option
    #[arg(long, hide = true)]
    pub(crate) long_options: bool,

    /// List every short option
    #[arg(long, hide = true)]
    pub(crate) short_options: bool,
}

/// The options for the machine and the caches, for every verb that makes images.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct BuilderArgs {
    /// The options for the machine in which scripts run.
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
    /// The options for results of earlier builds.
    #[command(flatten)]
    pub(crate) reuse: ReuseArgs,

    /// Let scripts wait for their disks when they sync
    ///
    /// Without this option, fsync(2), fdatasync(2), msync(2), sync(2), syncfs(2) and
    /// sync_file_range(2) of scripts, and of all processes that they start, succeed at once.
    /// Nothing is lost: vbuild writes everything back itself before it keeps a result or writes an
    /// output, and if a machine dies, its build fails with it. Package managers sync after every
    /// file, so builds take much longer with this option. Boot loaders that look for their files on
    /// the disk under a mounted filesystem may need it.
    #[arg(long, help_heading = MACHINE)]
    pub(crate) keep_sync: bool,
}

/// The options for a machine, its drive, caches and network, for every verb that runs something in
/// a machine.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct GuestArgs {
    /// The options for the helper drive, on which scripts keep caches between builds.
    #[command(flatten)]
    pub(crate) drive: DriveArgs,
    /// The option for vbuild's own cache.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
    /// The options for the machine.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// The options for the network.
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
}

/// The options for the elements to build.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = ELEMENTS)]
pub(crate) struct ElementArgs {
    /// Elements to build; one of them provides the operating system
    #[arg(value_name = "ELEMENT", help_heading = ELEMENTS)]
    pub(crate) elements: Vec<String>,

    /// Search PATH for elements; repeatable, the first match wins
    ///
    /// After all of these, the folders of the variable ELEMENTS_PATH are searched, and then the
    /// elements of diskimage-builder itself.
    #[arg(short = 'p', long = "element-path", value_name = "PATH", value_parser = path())]
    pub(crate) element_path: Vec<PathBuf>,

    /// The `lib` folder of diskimage-builder [default: the installed one, else a fetched one]
    ///
    /// Without this option, vbuild uses the diskimage-builder that is installed. If there is none,
    /// it fetches release 3.43.0, checked against a pinned hash, into its cache.
    #[arg(short = 'B', long = "base-path", value_name = "PATH", value_parser = path())]
    pub(crate) base_path: Option<PathBuf>,

    /// Leave out an element after its dependencies are resolved; repeatable
    #[arg(long, value_name = "ELEMENT")]
    pub(crate) exclude_element: Vec<String>,

    /// Leave out every script of this name, in all elements; repeatable
    #[arg(long, value_name = "SCRIPT")]
    pub(crate) exclude_script: Vec<String>,

    /// Do not add the element `base`
    #[arg(short = 'n', long)]
    pub(crate) skip_base: bool,

    /// Build a ramdisk: NAME.d with kernel and initrd, no disk image
    #[arg(long)]
    pub(crate) ramdisk: bool,

    /// The element that makes the ramdisk [default: ramdisk]
    #[arg(long, value_name = "ELEMENT")]
    pub(crate) ramdisk_element: Option<String>,

    /// Install these packages too; comma-separated, repeatable
    ///
    /// They are installed in one go between install.d and post-install.d.
    #[arg(long, value_name = "PACKAGE,...")]
    pub(crate) extra_packages: Vec<String>,

    /// Install from `source` or `package` where elements offer both [default: source]
    #[arg(long, value_name = "TYPE")]
    pub(crate) install_type: Option<String>,
}

/// The options for what scripts see.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = SCRIPTS)]
pub(crate) struct ScriptArgs {
    /// Give scripts a variable; NAME alone has its value here; repeatable
    ///
    /// No other variable of the caller's environment reaches a script. A NAME that is not set there
    /// is skipped. If a name is given twice, the last one counts. Variables that vbuild sets itself
    /// (ARCH, IMAGE_NAME, HOME and so on) cannot be changed this way.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(crate) envvar: Vec<EnvVar>,

    /// Take nothing from the environment that vbuild was started with
    ///
    /// `--envvar NAME` without a value then has no effect. If vbuild was started under the name
    /// disk-image-create, none of the variables that it reads reaches the build, except that
    /// ELEMENTS_PATH still names the folders of elements.
    #[arg(short = 'c', long)]
    pub(crate) clear_environment: bool,

    /// Let scripts read a file or folder of the host; repeatable
    ///
    /// It appears read-only in the guest under GUEST, or under its own absolute path. No other
    /// path of the host is visible to any script, extra-data.d included.
    #[arg(long, value_name = "HOST[:GUEST]")]
    pub(crate) share: Vec<Share>,

    /// Folder of the drive where scripts keep downloads [default: /home/.cache/image-create]
    ///
    /// Scripts see it as DIB_IMAGE_CACHE. Without `--drive`, it is removed at the end of the build.
    #[arg(long, value_name = "DIR")]
    pub(crate) image_cache: Option<String>,

    /// Python interpreter that elements see as DIB_PYTHON_EXEC
    ///
    /// The value is a name or a path in the appliance, where all elements run. The host's own
    /// interpreters are not used.
    #[arg(long, value_name = "PYTHON")]
    pub(crate) python: Option<String>,

    /// Set DIB_OFFLINE=1, so that elements work from their caches; the network stays on
    #[arg(long, help_heading = NETWORK)]
    pub(crate) offline: bool,

    /// Trace scripts (`set -x`); twice traces more
    #[arg(short = 'x', long = "trace", action = ArgAction::Count)]
    pub(crate) trace: u8,

    /// Open a shell at a point: before-PHASE, after-PHASE, after-error; comma-separated
    ///
    /// A PHASE is `root`, `extra-data`, `pre-install`, `install`, `post-install`, `post-root`,
    /// `block-device`, `pre-finalise`, `finalise` or `cleanup`. The shell runs in the appliance and
    /// starts in the root of the image, which is also the value of VBUILD_IMAGE; the build
    /// continues when the shell ends. A build with such a point neither uses nor keeps results. The
    /// variable `break` has the same effect, and if the variable `break_cmd` is set, that command
    /// runs instead of the shell.
    #[arg(long, value_name = "POINT,...")]
    pub(crate) debug_shell: Vec<String>,

    /// Fail a script that runs longer than this
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(crate) timeout: Option<u32>,
}

/// The options for the image and the other outputs.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = IMAGE)]
pub(crate) struct ImageArgs {
    /// Name of the outputs, without suffix; may contain folders
    #[arg(long, short_alias = 'o', value_name = "NAME", default_value = "image")]
    pub(crate) name: String,

    /// What to write: comma-separated; the last of several options counts
    #[arg(long, short_alias = 't', value_name = "FORMAT,...", default_value = "qcow2",
          value_parser = super::formats::parse, long_help = super::formats::manual())]
    pub(crate) formats: super::formats::Formats,

    /// Architecture of the image, in the names that elements use [default: the host's]
    #[arg(long, short_alias = 'a', value_name = "ARCH")]
    pub(crate) arch: Option<String>,

    /// Size of the disk: a number and one of b, K, M, G [default: what the files need]
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["image_size", "image_extra_size"])]
    pub(crate) size: Option<ByteSize>,

    /// Size of the disk in GiB, as disk-image-create takes it
    ///
    /// Only the number at the beginning of the value counts. It may have a fraction and is always
    /// in GiB: `6GiB` is 6. The rest of the value is ignored, as by diskimage-builder, with a
    /// warning unless it stands for GiB.
    #[arg(long, value_name = "GIB", value_parser = image_size, conflicts_with = "image_extra_size")]
    pub(crate) image_size: Option<String>,

    /// Free space to add to what the files need, in MiB
    #[arg(long, value_name = "MIB", value_parser = image_extra_size)]
    pub(crate) image_extra_size: Option<String>,

    /// Filesystem of the root [default: ext4]
    #[arg(long, value_name = "TYPE")]
    pub(crate) fs_type: Option<String>,

    /// Options for the mkfs of the root, split as a shell splits words
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) mkfs_options: Option<String>,

    /// Size of the journal of an ext4 root, in MiB [default: 64]
    #[arg(long, value_name = "MIB", value_parser = positive)]
    pub(crate) mkfs_journal_size: Option<u32>,

    /// How far the root can be grown while mounted, in blocks of the filesystem
    #[arg(long, value_name = "BLOCKS", value_parser = max_online_resize)]
    pub(crate) max_online_resize: Option<String>,

    /// Label of the root filesystem [default: cloudimg-rootfs; img-rootfs on xfs]
    #[arg(long, value_name = "LABEL")]
    pub(crate) root_label: Option<String>,

    /// Do not compress qcow2
    #[arg(short = 'u', long = "uncompressed")]
    pub(crate) uncompressed: bool,

    /// Options for the qcow2 image, as `qemu-img -o` takes them
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) qemu_img_options: Option<String>,

    /// Write checksums beside each output [default when given: md5,sha256]
    #[arg(long, value_name = "KIND,...", require_equals = true, num_args = 0..=1,
          value_delimiter = ',', default_missing_values = ["md5", "sha256"])]
    pub(crate) checksum: Vec<ChecksumKind>,

    /// Repository and tag of container outputs
    #[arg(long, value_name = "REPOSITORY[:TAG]")]
    pub(crate) docker_target: Option<String>,

    /// Load the finished container image into the engine that runs here
    ///
    /// The archive of the format docker, or else oci, is passed to `ENGINE load`; it also stays
    /// beside the other outputs.
    #[arg(long, value_name = "ENGINE")]
    pub(crate) load_into: Option<ContainerEngine>,

    /// Keep the outputs of this build when it fails
    ///
    /// Disks are written as the failure left them, and archives if they were finished. Outputs of
    /// earlier builds are renamed with their date. The build directory is kept, too.
    #[arg(long)]
    pub(crate) no_delete_on_failure: bool,
}

/// The options for the drive that keeps caches and logs.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = CACHES)]
pub(crate) struct DriveArgs {
    /// Disk image that keeps caches and logs from build to build
    ///
    /// The first partition is used, or the whole disk if it has no partitions; it must already
    /// contain a filesystem. `vbuild cache create` makes such a drive. The filesystem is left
    /// clean, even if the build fails or is killed.
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) drive: Option<PathBuf>,

    /// Format of the drive [default: raw]
    ///
    /// The format is never detected from the content, because a guest can write anything to its
    /// drive. Without this option, a drive that begins like a file of another format is refused. A
    /// qcow2 drive must not have a backing file or an external data file.
    #[arg(long, value_name = "FORMAT", value_parser = drive_format())]
    pub(crate) drive_format: Option<DriveFormat>,
}

/// The options for the machine that builds.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = MACHINE)]
pub(crate) struct MachineArgs {
    /// The options for the accelerator and the confinement.
    #[command(flatten)]
    pub(crate) accel: AccelArgs,
    /// The option for the memory.
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    /// The option for the processors.
    #[command(flatten)]
    pub(crate) processors: ProcessorArgs,
    /// The option for the packages of the appliance.
    #[command(flatten)]
    pub(crate) packages: PackageArgs,

    /// Boot every machine instead of restoring it from saved memory
    ///
    /// Without this option, the first machine with a given appliance, memory and number of
    /// processors is saved in the cache right after its boot, before it has seen any recipe. Later
    /// machines are restored from it, with a fresh clock and fresh random numbers.
    #[arg(long)]
    pub(crate) cold: bool,
}

/// The options for the accelerator and the confinement of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = MACHINE)]
pub(crate) struct AccelArgs {
    /// Accelerator of the machine
    ///
    /// `auto` tries the instructions that a kernel needs on /dev/kvm, and uses KVM if they work at
    /// a sensible speed. Otherwise QEMU translates the guest's instructions, which is slower but
    /// has no requirements. `vbuild doctor` shows every check.
    #[arg(long, value_name = "KIND", default_value = "auto", value_parser = accel())]
    pub(crate) accel: Accel,

    /// Fail if the kernel does not grant every layer of the confinement of vbuild's processes
    ///
    /// The processes that handle data from a guest cannot reach any paths, sockets or other
    /// processes. On a kernel without landlock, one layer of this confinement is missing; machines
    /// start nevertheless, and `-v` shows what is missing. With this option they do not start, and
    /// the exit status is 3 (125 for `exec`). `vbuild doctor` shows which layers hold.
    #[arg(long)]
    pub(crate) require_confinement: bool,
}

/// The option for the memory of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = MACHINE)]
pub(crate) struct MemoryArgs {
    /// Memory of the machine in MiB [default: 2048]
    #[arg(short = 'm', long, value_name = "MIB", value_parser = memsize)]
    pub(crate) memsize: Option<u32>,
}

/// The option for the processors of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = MACHINE)]
pub(crate) struct ProcessorArgs {
    /// Processors of the machine [default: as many as the host has, at most 4]
    #[arg(long, value_name = "N", value_parser = smp)]
    pub(crate) smp: Option<u8>,
}

/// The option for the packages of the appliance.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = MACHINE)]
pub(crate) struct PackageArgs {
    /// Add a Debian package to the appliance; repeatable
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) appliance_package: Vec<String>,
}

/// The options for what is shown and logged, and where.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = OUTPUT)]
pub(crate) struct OutputArgs {
    /// The options for how much is shown.
    #[command(flatten)]
    pub(crate) view: ViewArgs,

    /// Write the whole log of the build to FILE
    #[arg(long, value_name = "FILE", value_parser = path())]
    pub(crate) logfile: Option<PathBuf>,

    /// Write events as JSON lines to fd:N, file:PATH, stream:stdout or stream:stderr
    ///
    /// Each line has at least `message`, `timestamp` and `type`. Without elements on the command
    /// line, vbuild lists its capabilities instead, one per line.
    #[arg(long, value_name = "CHANNEL", require_equals = true, num_args = 0..=1,
          default_missing_value = "")]
    pub(crate) machine_readable: Option<MachineReadable>,
}

/// The options for what is shown while a build runs.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = OUTPUT)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent flag of the command line"
)]
pub(crate) struct ViewArgs {
    /// Show warnings and errors only
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,

    /// Show the output of scripts while they run
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,

    /// Show what vbuild itself does: 0 nothing, 1 steps and timings, 2 everything
    #[arg(long, value_name = "LEVEL", value_parser = debug_level, default_value = "0")]
    pub(crate) debug: u32,

    /// Use colours even if the output is not a terminal
    #[arg(long, visible_aliases = ["colors", "colour", "color"])]
    pub(crate) colours: bool,

    /// Wrap messages at 76 columns even if the output is not a terminal
    #[arg(long)]
    pub(crate) wrap: bool,
}

/// The options of disk-image-create for tmpfs. They do not change the build: vbuild always builds
/// on a disk of its microVM.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = MACHINE)]
pub(crate) struct TmpfsArgs {
    /// Build on disk, as vbuild always does (for compatibility with disk-image-create)
    #[arg(long, hide_short_help = true)]
    pub(crate) no_tmpfs: bool,

    /// Only print a warning, because vbuild never builds in memory
    #[arg(long, value_name = "GIB", value_parser = positive, hide_short_help = true)]
    pub(crate) min_tmpfs: Option<u32>,
}
