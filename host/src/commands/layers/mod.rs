//! `vbuild layers`: a disk image as a stack of scripts, one folder each.

mod build;
mod compare;
mod description;
mod starting_image;

pub use starting_image::Missing;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{Context, Outcome, boot, recipe};
use crate::{
    cli::{
        BackingArgs, BuilderArgs, ByteSize, CacheDirArgs, ChecksumKind, ContainerEngine, Formats,
        HostPathArgs, MachineArgs, OutputArgs, SourceArgs, parse_formats, positive,
    },
    error::{CommandError, Kind},
    pipeline::Ctx,
};

/// The name of the result, below [`::layers::BUILD_FOLDER`].
const RESULT: &str = "image.qcow2";

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
pub struct LayersArgs {
    /// What to do other than building.
    #[command(subcommand)]
    pub verb: Option<LayersVerb>,
    /// The build.
    #[command(flatten)]
    pub build: LayersBuildArgs,
}

/// What can be done with layers beside building them.
#[derive(Debug, Clone, PartialEq, Subcommand)]
pub enum LayersVerb {
    /// Make the folder of a new layer with an empty script
    NewLayer(NewLayerArgs),
    /// Boot the result on its serial console, without changing it
    TestBoot(TestBootArgs),
    /// Say in what two images differ: files, packages, sizes
    CompareLayers(Box<CompareLayersArgs>),
}

/// `vbuild layers [DIR]`.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct LayersBuildArgs {
    /// The project
    #[arg(value_name = "DIR", default_value = ".")]
    pub project: PathBuf,

    /// Start from this image, or URL#sha256=HEX, instead of the one in vbuild.yaml
    #[arg(long, value_name = "IMAGE")]
    pub base: Option<::layers::Base>,

    /// What the base image may stand on.
    #[command(flatten)]
    pub backing: BackingArgs,

    /// Make the disk this large, with the root filesystem on it
    #[arg(long, value_name = "SIZE")]
    pub size: Option<ByteSize>,

    /// The root filesystem that is meant, where the base has several
    ///
    /// The number of its partition, GROUP/VOLUME of LVM, or LABEL=, UUID=, PARTLABEL= or PARTUUID=
    /// and a value. `root:` in vbuild.yaml says the same.
    #[arg(long, value_name = "NAME", value_parser = ::layers::parse_root)]
    pub root: Option<String>,

    /// Stop after this layer
    #[arg(long, value_name = "LAYER")]
    pub last: Option<String>,

    /// Write one image that needs no other file, instead of an overlay over the base
    #[arg(long)]
    pub flatten: bool,

    /// The result [default: DIR/build/image.qcow2]; its suffix tells the format, and
    /// any but .qcow2 means --flatten
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// What to write, instead of what the result's suffix tells, each without an overlay;
    /// comma-separated
    #[arg(long, value_name = "FORMAT,...", value_parser = parse_formats)]
    pub formats: Option<Formats>,

    /// Repository and tag of container outputs
    #[arg(long, value_name = "REPOSITORY[:TAG]")]
    pub docker_target: Option<String>,

    /// Load the finished container image into the engine that runs here
    #[arg(long, value_name = "ENGINE")]
    pub load_into: Option<ContainerEngine>,

    /// Options for a flattened image, as `qemu-img -o` takes them
    #[arg(long, value_name = "OPTIONS")]
    pub qemu_img_options: Option<String>,

    /// Do not compress a flattened image
    #[arg(short = 'u', long)]
    pub uncompressed: bool,

    /// Write checksums beside a flattened image [default when given: md5,sha256]
    #[arg(long, value_name = "KIND,...", require_equals = true, num_args = 0..=1,
          value_delimiter = ',', default_missing_values = ["md5", "sha256"])]
    pub checksum: Vec<ChecksumKind>,

    /// What the project may name of the host.
    #[command(flatten)]
    pub host_paths: HostPathArgs,

    /// Fail a script that runs longer than this, where vbuild.yaml says nothing
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub timeout: Option<u32>,

    /// What builds.
    #[command(flatten)]
    pub builder: BuilderArgs,
    /// What is shown.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `vbuild layers new-layer`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct NewLayerArgs {
    /// Its name: two or more digits, `_`, and a name
    #[arg(value_name = "NAME")]
    pub name: String,

    /// The project
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub project: PathBuf,
}

/// `vbuild layers test-boot`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    after_help = "What the guest changes is gone when it ends. Ctrl-A X ends the guest, Ctrl-C is \
                        the guest's."
)]
pub struct TestBootArgs {
    /// The image [default: build/image.qcow2]
    #[arg(value_name = "IMAGE")]
    pub image: Option<PathBuf>,

    /// Options of the run.
    #[command(flatten)]
    pub trial: boot::TrialArgs,
}

/// `vbuild layers compare-layers`.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(
    after_help = "Each image is copied into a machine of its own and only read there, so both may \
                        be in use, and may hold volumes of the same names. What differs is printed, \
                        and nothing when they are equal. The exit status is 0; with --exit-code it is \
                        1 when they differ. It is 2 when they cannot be compared."
)]
pub struct CompareLayersArgs {
    /// An image, or a layer of the project that was built last
    #[arg(value_name = "A")]
    pub one: PathBuf,

    /// Another
    #[arg(value_name = "B")]
    pub other: PathBuf,

    /// The root filesystem that is meant, where the images have several; as for a build
    #[arg(long, value_name = "NAME", value_parser = ::layers::parse_root)]
    pub root: Option<String>,

    /// End with 1 when they differ
    #[arg(long)]
    pub exit_code: bool,

    /// What the images may stand on.
    #[command(flatten)]
    pub backing: BackingArgs,
    /// What vbuild keeps between builds.
    #[command(flatten)]
    pub cache_dir: CacheDirArgs,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Where its appliance comes from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// How much is shown of it.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Does it.
///
/// # Errors
/// A project that is wrong, and whatever the build fails with.
pub fn run(context: &Context, args: &LayersArgs) -> Outcome {
    match &args.verb {
        None => build::run(context, &args.build),
        Some(LayersVerb::NewLayer(args)) => new_layer(context, args),
        Some(LayersVerb::TestBoot(args)) => test_boot(context, args),
        Some(LayersVerb::CompareLayers(args)) => compare::run(context, args),
    }
}

/// The plan of a project, for verbs that look at it.
///
/// # Errors
/// A project or a base image that is wrong.
pub fn plan(
    args: &LayersBuildArgs,
    ctx: &Ctx,
    missing: Missing,
) -> Result<recipe::Prepared, CommandError> {
    build::plan(args, ctx, missing)
}

/// Where base images are kept.
#[must_use]
pub fn bases_folder(cache_dir: &Path) -> PathBuf {
    starting_image::folder_in(cache_dir)
}

/// An error of a base image for the command line.
pub(crate) fn base_failure(error: base_image::BaseError) -> CommandError {
    starting_image::failure(error)
}

fn new_layer(context: &Context, args: &NewLayerArgs) -> Outcome {
    let script = ::layers::new_layer(&args.project, &args.name).map_err(|error| {
        let kind = match &error {
            ::layers::NewLayerError::Io { .. } => Kind::Host,
            _ => Kind::Usage,
        };
        CommandError::new(kind, error)
    })?;
    context.console.print(&format!("{}\n", script.display()))?;
    Ok(0)
}

fn test_boot(context: &Context, args: &TestBootArgs) -> Outcome {
    let image =
        args.image.clone().unwrap_or_else(|| Path::new(::layers::BUILD_FOLDER).join(RESULT));
    boot::run(
        context,
        &boot::BootArgs {
            image,
            format: None,
            block_size: machine::BlockSize::B512,
            trial: args.trial.clone(),
        },
    )
}
