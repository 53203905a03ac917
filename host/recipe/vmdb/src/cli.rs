//! The options of `vbuild vmdb` (also called as `vmdb2`), and how they become a plan. This module
//! uses neither terminal nor clock: the command line is parsed elsewhere, and messages are returned
//! as data.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use inputs::Sources;
use plan::MachineArchitecture;

use crate::{
    complaint::{Source, SpecError},
    formats::FormatChoice,
    lower::lower,
    lowering::{Lowered, Settings},
    narration::{StepNote, Wording},
    shares::{self, Share},
    spec::{self, Spec},
    steps::{Action, QemuDebootstrap},
    template::{VariableError, Variables},
};

/// Maximum size of a spec. Real ones have a few kilobytes.
const SPEC_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Exit status if a build or spec fails; an invalid command line gives 2.
pub const EXIT_FAILED: u8 = 1;

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The spec's path, or `-` for standard input.
    pub spec: String,
    /// `--output`: a new image.
    pub output: Option<String>,
    /// `--image`: an existing image.
    pub image: Option<String>,
    /// `--rootfs-tarball`.
    pub rootfs_tarball: Option<String>,
    /// `--variable`, each as `NAME=VALUE`.
    pub variables: Vec<String>,
    /// `--formats`: overrides the format that the suffix of the output selects.
    pub formats: Vec<FormatChoice>,
    /// `--docker-target`: name and tag of container images.
    pub docker_target: Option<String>,
    /// Whether formats that can compress do so.
    pub compress: bool,
    /// Options for the format, `k=v,k=v`.
    pub format_options: Option<String>,
    /// Kinds of checksum files to write.
    pub checksums: Vec<plan::Checksum>,
    /// `--lenient`: warn about faults that vmdb2 ignores, instead of refusing the spec.
    pub lenient: bool,
    /// The vmdb2 version whose wording the narration uses.
    pub wording: Wording,
    /// The architecture of the build machine, in Debian's names: `amd64`.
    pub arch: String,
    /// The working directory.
    pub directory: PathBuf,
    /// `--allow-host-path`: host paths that the spec may name beside its own files.
    pub allowed: Vec<PathBuf>,
    /// Home directories and directories for temporary files; see [`Sources::broad`].
    pub broad: Vec<PathBuf>,
    /// `--share`: host files that commands of the spec may read.
    pub shares: Vec<Share>,
    /// Whether `shell` steps see the spec's directory.
    pub shares_folder: bool,
    /// Host paths that vbuild itself writes in this run, beside the outputs.
    pub written: Vec<PathBuf>,
}

/// Why a build cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Neither `--output` nor `--image` was given.
    #[error("neither --output nor --image says what to build")]
    NoTarget,
    /// The value of an option is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A `--variable` is invalid.
    #[error("--variable: {0}")]
    Variable(#[from] VariableError),
    /// A path of `--share` cannot be read.
    #[error("--share: {0}")]
    Share(String),
    /// The spec cannot be read.
    #[error("cannot read the spec `{path}`")]
    Read {
        /// The path of the spec; `-` for standard input.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The spec is too large.
    #[error("the spec `{0}` is larger than {SPEC_MAX_BYTES} bytes")]
    TooLarge(String),
    /// The spec is invalid; the message lists all faults with their positions.
    #[error("{0}")]
    Spec(Box<SpecError>),
}

/// A build that is ready to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The plan, with its narration and warnings.
    pub lowered: Lowered,
    /// The spec's text, to show the position of a failing step.
    pub source: Source,
}

impl Prepared {
    /// Whether all steps only print messages; [`crate::Narration::run_local`] then runs the spec
    /// without a machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.lowered.plan.stages.is_empty()
    }

    /// The position and source line of the step that a stage belongs to, for the message if the
    /// stage fails.
    #[must_use]
    pub fn place_of_stage(&self, stage: usize) -> Option<String> {
        self.lowered.narration.step_of_stage(stage).map(|step| self.place_of_step(step))
    }

    /// The position and source line of a step.
    #[must_use]
    pub fn place_of_step(&self, step: &StepNote) -> String {
        let title = format!("step {} ({})", step.number, step.name);
        let excerpt = self.source.excerpt(step.at);
        format!("{}:{}: {title}\n{excerpt}", self.source.name, step.at)
    }
}

/// Reads, checks and lowers a spec. `stdin` is read if the spec is `-`.
///
/// # Errors
/// Fails on any error in the command line or the spec.
pub fn prepare(options: &Options, stdin: &mut dyn Read) -> Result<Prepared, Failure> {
    if options.output.is_none() && options.image.is_none() {
        return Err(Failure::NoTarget);
    }
    let named = [
        ("SPEC", Some(&options.spec)),
        ("--output", options.output.as_ref()),
        ("--image", options.image.as_ref()),
        ("--rootfs-tarball", options.rootfs_tarball.as_ref()),
    ];
    for (name, value) in named {
        if value.is_some_and(String::is_empty) {
            return Err(Failure::Empty(name));
        }
    }
    let mut variables = Variables::new(
        options.output.as_deref(),
        options.image.as_deref(),
        options.rootfs_tarball.as_deref(),
        &options.arch,
    );
    for definition in &options.variables {
        variables.define(definition)?;
    }
    let source = read_spec(options, stdin)?;
    let wrong = |error: SpecError| Failure::Spec(Box::new(error));
    let spec = spec::read(source.clone(), &variables, options.lenient).map_err(wrong)?;
    let settings = Settings {
        spec: options.spec.clone(),
        output: options.output.clone(),
        image: options.image.clone(),
        rootfs_tarball: options.rootfs_tarball.clone(),
        formats: options.formats.clone(),
        docker_target: options.docker_target.clone(),
        compress: options.compress,
        format_options: options.format_options.clone(),
        checksums: options.checksums.clone(),
        machine: machine(&spec),
        sources: sources(options),
        shares: shares::read(&options.shares).map_err(Failure::Share)?,
        folder: folder(options),
        written: written(options),
        lenient: options.lenient,
        wording: options.wording,
    };
    let lowered = lower(&spec, &settings).map_err(wrong)?;
    Ok(Prepared { lowered, source })
}

/// The machine for a spec: that of the architecture for which it bootstraps, and this host's if it
/// names none, or several that no machine runs together.
fn machine(spec: &Spec) -> MachineArchitecture {
    let named = spec.steps.iter().filter_map(|step| match &step.action {
        Action::Debootstrap(step) | Action::QemuDebootstrap(QemuDebootstrap { base: step }) => {
            step.arch.as_deref()
        }
        _ => None,
    });
    let mut machines: Vec<_> = named.map(str::parse::<MachineArchitecture>).collect();
    machines.dedup();
    match machines[..] {
        [Ok(machine)] => machine,
        _ => MachineArchitecture::of_host(),
    }
}

/// The host files that the spec may name: those in its own directory, and those in the working
/// directory if the spec is in it; see [`Sources`].
fn sources(options: &Options) -> Sources {
    let here = options.directory.clone();
    let parent = Path::new(&options.spec).parent().filter(|_| options.spec != "-");
    let own = parent.map(|parent| here.join(parent));
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let lies_here = own.as_ref().is_none_or(|own| real(own).starts_with(real(&here)));
    Sources {
        lookup: [here.clone()].into_iter().chain(own.clone()).collect(),
        own: own.into_iter().chain(lies_here.then_some(here)).collect(),
        allowed: options.allowed.clone(),
        broad: options.broad.clone(),
    }
}

/// The directory that `shell` steps see.
fn folder(options: &Options) -> Option<PathBuf> {
    if !options.shares_folder || options.spec == "-" {
        return None;
    }
    let own = options.directory.join(&options.spec);
    own.parent().and_then(|folder| std::fs::canonicalize(folder).ok())
}

/// All host files that this run writes, as absolute paths without links.
fn written(options: &Options) -> Vec<PathBuf> {
    let files = [&options.output, &options.image, &options.rootfs_tarball];
    let files = files.into_iter().flatten().map(PathBuf::from);
    files
        .chain(options.written.iter().cloned())
        .map(|file| rooted::real_place(&options.directory.join(file)))
        .collect()
}

fn read_spec(options: &Options, stdin: &mut dyn Read) -> Result<Source, Failure> {
    let fail = |source| Failure::Read { path: options.spec.clone(), source };
    let mut text = String::new();
    let (name, count) = if options.spec == "-" {
        let count = stdin.take(SPEC_MAX_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
        ("standard input", count)
    } else {
        let file = std::fs::File::open(options.directory.join(&options.spec)).map_err(fail)?;
        let count = file.take(SPEC_MAX_BYTES + 1).read_to_string(&mut text).map_err(fail)?;
        (options.spec.as_str(), count)
    };
    if count as u64 > SPEC_MAX_BYTES {
        return Err(Failure::TooLarge(name.to_owned()));
    }
    Ok(Source { name: name.to_owned(), text })
}
