//! The command line of `vbuild layers`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::{
    cli::{
        BackingArgs, BuilderArgs, ByteSize, CacheDirArgs, ChecksumKind, ContainerEngine, Formats,
        HostPathArgs, MachineArgs, OutputArgs, SourceArgs, parse_formats, positive,
    },
    commands::boot,
};

/// The name of the result, below [`::layers::BUILD_FOLDER`].
pub(super) const RESULT: &str = "image.qcow2";

/// `vbuild layers`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs",
    override_usage = "vbuild layers [OPTIONS] [DIR]\n       vbuild layers VERB ...",
    after_help = "vbuild-layers(5) tells what a project holds. A folder with the name of a verb is \
                        written ./VERB."
)]
pub(crate) struct LayersArgs {
    /// What to do other than building.
    #[command(subcommand)]
    pub(crate) verb: Option<LayersVerb>,
    /// The options of the build.
    #[command(flatten)]
    pub(crate) build: LayersBuildArgs,
}

/// What can be done with layers beside building them.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub(crate) enum LayersVerb {
    /// Make the folder of a new layer with an empty script
    NewLayer(NewLayerArgs),
    /// Boot the result on its serial console, without changing it
    TestBoot(TestBootArgs),
    /// Say in what two images differ: files, packages, sizes
    CompareLayers(Box<CompareLayersArgs>),
}

/// `vbuild layers [DIR]`.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct LayersBuildArgs {
    /// The project
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) project: PathBuf,

    /// Start from this image, or URL#sha256=HEX, instead of the one in vbuild.yaml
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Option<::layers::Base>,

    /// What the base image may stand on.
    #[command(flatten)]
    pub(crate) backing: BackingArgs,

    /// Make the disk this large, with the root filesystem on it
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<ByteSize>,

    /// The root filesystem that is meant, where the base has several
    ///
    /// The number of its partition, GROUP/VOLUME of LVM, or LABEL=, UUID=, PARTLABEL= or PARTUUID=
    /// and a value. `root:` in vbuild.yaml says the same.
    #[arg(long, value_name = "NAME", value_parser = ::layers::parse_root)]
    pub(crate) root: Option<String>,

    /// Stop after this layer
    #[arg(long, value_name = "LAYER")]
    pub(crate) last: Option<String>,

    /// Write one image that needs no other file, instead of an overlay over the base
    #[arg(long)]
    pub(crate) flatten: bool,

    /// The result [default: DIR/build/image.qcow2]; its suffix tells the format, and
    /// any but .qcow2 means --flatten
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// What to write, instead of what the result's suffix tells, each without an overlay;
    /// comma-separated
    #[arg(long, value_name = "FORMAT,...", value_parser = parse_formats)]
    pub(crate) formats: Option<Formats>,

    /// Repository and tag of container outputs
    #[arg(long, value_name = "REPOSITORY[:TAG]")]
    pub(crate) docker_target: Option<String>,

    /// Load the finished container image into the engine that runs here
    #[arg(long, value_name = "ENGINE")]
    pub(crate) load_into: Option<ContainerEngine>,

    /// Options for a flattened image, as `qemu-img -o` takes them
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) qemu_img_options: Option<String>,

    /// Do not compress a flattened image
    #[arg(short = 'u', long)]
    pub(crate) uncompressed: bool,

    /// Write checksums beside a flattened image [default when given: md5,sha256]
    #[arg(long, value_name = "KIND,...", require_equals = true, num_args = 0..=1,
          value_delimiter = ',', default_missing_values = ["md5", "sha256"])]
    pub(crate) checksum: Vec<ChecksumKind>,

    /// What the project may name of the host.
    #[command(flatten)]
    pub(crate) host_paths: HostPathArgs,

    /// Fail a script that runs longer than this, where vbuild.yaml says nothing
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(crate) timeout: Option<u32>,

    /// The options about the machine and the caches.
    #[command(flatten)]
    pub(crate) builder: BuilderArgs,
    /// The options about what is shown.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `vbuild layers new-layer`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct NewLayerArgs {
    /// Its name: two or more digits, `_`, and a name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// The project
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) project: PathBuf,
}

/// `vbuild layers test-boot`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "What the guest changes is gone when it ends. Ctrl-A X ends the guest, Ctrl-C is \
                        the guest's."
)]
pub(crate) struct TestBootArgs {
    /// The image [default: build/image.qcow2]
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Option<PathBuf>,

    /// How the image is booted.
    #[command(flatten)]
    pub(crate) trial: boot::TrialArgs,
}

/// `vbuild layers compare-layers`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "Each image is copied into a machine of its own and only read there, so both may \
                        be in use, and may hold volumes of the same names. What differs is printed, \
                        and nothing when they are equal. The exit status is 0; with --exit-code it is \
                        1 when they differ. It is 2 when they cannot be compared."
)]
pub(crate) struct CompareLayersArgs {
    /// An image, or a layer of the project that was built last
    #[arg(value_name = "A")]
    pub(crate) one: PathBuf,

    /// Another
    #[arg(value_name = "B")]
    pub(crate) other: PathBuf,

    /// The root filesystem that is meant, where the images have several; as for a build
    #[arg(long, value_name = "NAME", value_parser = ::layers::parse_root)]
    pub(crate) root: Option<String>,

    /// End with 1 when they differ
    #[arg(long)]
    pub(crate) exit_code: bool,

    /// What the images may stand on.
    #[command(flatten)]
    pub(crate) backing: BackingArgs,
    /// What vbuild keeps between builds.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
    /// The options of the machine.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Where its appliance comes from.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// How much is shown of it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
