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

/// The default file name of the result, in [`::layers::BUILD_FOLDER`].
pub(super) const RESULT: &str = "image.qcow2";

/// The arguments of `vbuild layers`.
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
    /// The verb, if it is not a build.
    #[command(subcommand)]
    pub(crate) verb: Option<LayersVerb>,
    /// The options of the build.
    #[command(flatten)]
    pub(crate) build: LayersBuildArgs,
}

/// The verbs of `vbuild layers`, except for building.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub(crate) enum LayersVerb {
    /// Make the folder of a new layer with an empty script
    NewLayer(NewLayerArgs),
    /// Boot the result on its serial console, without changing it
    TestBoot(TestBootArgs),
    /// Show how two images differ: files, packages, sizes
    CompareLayers(Box<CompareLayersArgs>),
}

/// The arguments of a build, `vbuild layers [DIR]`.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct LayersBuildArgs {
    /// The folder of the project
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) project: PathBuf,

    /// Start from this image, or URL#sha256=HEX, instead of the one in vbuild.yaml
    #[arg(long, value_name = "IMAGE")]
    pub(crate) base: Option<::layers::Base>,

    /// The backing files that the base image may have.
    #[command(flatten)]
    pub(crate) backing: BackingArgs,

    /// Make the disk this large, and its root filesystem with it
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<ByteSize>,

    /// Use this root filesystem, if the base image has several
    ///
    /// NAME is the number of its partition, GROUP/VOLUME of LVM, or LABEL=, UUID=, PARTLABEL= or
    /// PARTUUID= and a value. `root:` in vbuild.yaml does the same.
    #[arg(long, value_name = "NAME", value_parser = ::layers::parse_root)]
    pub(crate) root: Option<String>,

    /// Stop after this layer
    #[arg(long, value_name = "LAYER")]
    pub(crate) last: Option<String>,

    /// Write one image that needs no other file, instead of an overlay over the base
    #[arg(long)]
    pub(crate) flatten: bool,

    /// Write the result to FILE [default: DIR/build/image.qcow2]; its suffix gives the format, and
    /// any but .qcow2 means --flatten
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Write these formats, each without an overlay, instead of the one that the result's suffix
    /// gives; comma-separated
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

    /// The host paths that the project may name.
    #[command(flatten)]
    pub(crate) host_paths: HostPathArgs,

    /// Fail a script that runs longer than this, unless vbuild.yaml sets a limit
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(crate) timeout: Option<u32>,

    /// The options for the machine and the caches.
    #[command(flatten)]
    pub(crate) builder: BuilderArgs,
    /// The output options.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// The arguments of `vbuild layers new-layer`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub(crate) struct NewLayerArgs {
    /// Name of the layer: two or more digits, `_`, and a name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// The folder of the project
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) project: PathBuf,
}

/// The arguments of `vbuild layers test-boot`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "What the guest changes is gone when it ends. Ctrl-A X ends the guest, Ctrl-C is \
                        the guest's."
)]
pub(crate) struct TestBootArgs {
    /// The image to boot [default: build/image.qcow2]
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Option<PathBuf>,

    /// The options for booting the image.
    #[command(flatten)]
    pub(crate) trial: boot::TrialArgs,
}

/// The arguments of `vbuild layers compare-layers`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "Each image is copied into a machine of its own and only read there, so both may \
                        be in use, and may hold volumes of the same names. What differs is printed, \
                        and nothing when they are equal. The exit status is 0; with --exit-code it is \
                        1 when they differ. It is 2 when they cannot be compared."
)]
pub(crate) struct CompareLayersArgs {
    /// An image, or a layer from the last build of the project
    #[arg(value_name = "A")]
    pub(crate) one: PathBuf,

    /// The image or layer to compare it with
    #[arg(value_name = "B")]
    pub(crate) other: PathBuf,

    /// Use this root filesystem, if the images have several; NAME is as for a build
    #[arg(long, value_name = "NAME", value_parser = ::layers::parse_root)]
    pub(crate) root: Option<String>,

    /// End with the status 1 if the images differ
    #[arg(long)]
    pub(crate) exit_code: bool,

    /// The backing files that the images may have.
    #[command(flatten)]
    pub(crate) backing: BackingArgs,
    /// The cache directory.
    #[command(flatten)]
    pub(crate) cache_dir: CacheDirArgs,
    /// The options of the machines that describe the images.
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// The sources of the machines' appliance.
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// The output options.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
