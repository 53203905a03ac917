//! The state of lowering: what steps share, and the plan so far. Steps add stages to it.

mod command;
mod host_files;
mod in_image;
mod lent;
mod lookup;

use std::{collections::BTreeSet, path::PathBuf};

use inputs::Sources;
use plan::{Bind, Context, GuestPath, MachineArchitecture, Plan, Stage, Step, Value};

pub(crate) use command::{Command, Work};

use crate::{
    complaint::Complaint,
    formats::FormatChoice,
    inputs::{Directories, InputError},
    narration::{Narration, StepNote, Wording},
    shares::Shared,
    state::{ImageDisk, Names, Tag},
    yaml::Position,
};

/// Where the layout is mounted.
pub(crate) const LAYOUT_AT: &str = "/build/image";
/// The parent of the steps' own directories.
pub(crate) const OWN_AT: &str = "/build/vmdb";
/// The working directory of `shell`: the spec's directory is bound to it, or shares at this path
/// are uploaded to it.
pub(crate) const WORK_AT: &str = "/build/spec";

/// The parameters of lowering, beside the spec's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The spec as given on the command line; `-` for standard input.
    pub spec: String,
    /// `--output`.
    pub output: Option<String>,
    /// `--image`.
    pub image: Option<String>,
    /// `--rootfs-tarball`.
    pub rootfs_tarball: Option<String>,
    /// Output formats; empty if the suffix of the output selects one.
    pub formats: Vec<FormatChoice>,
    /// Name and tag of container images.
    pub docker_target: Option<String>,
    /// Whether formats that can compress do so.
    pub compress: bool,
    /// Options for the format, `k=v,k=v`.
    pub format_options: Option<String>,
    /// Kinds of checksum files to write.
    pub checksums: Vec<plan::Checksum>,
    /// The architecture of the build machine.
    pub machine: MachineArchitecture,
    /// The host files that the spec may name, and where relative paths are looked up.
    pub sources: Sources,
    /// Files that the user shares with commands.
    pub shares: Vec<Shared>,
    /// The directory that `shell` steps see, without links.
    pub folder: Option<PathBuf>,
    /// All host files that the run writes, without links.
    pub written: Vec<PathBuf>,
    /// Whether faults that vmdb2 ignores give warnings instead of errors.
    pub lenient: bool,
    /// The vmdb2 version whose wording the narration uses.
    pub wording: Wording,
}

/// A lowered spec.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// The plan. A plan without stages needs no machine; see [`Narration::run_local`].
    pub plan: Plan,
    /// Packages that the appliance needs in addition to the standard ones.
    pub packages: Vec<String>,
    /// Warnings with positions.
    pub warnings: Vec<Complaint>,
    /// Remarks about the build as a whole, one line each.
    pub notes: Vec<String>,
    /// The output under `-v`.
    pub narration: Narration,
}

/// Why a step cannot be lowered.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The key that caused it.
    pub(crate) key: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Set for a consequence of another complaint, which suffices.
    pub(crate) silent: bool,
}

impl Fault {
    pub(crate) fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self { key, message: message.into(), hint: None, silent: false }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn input(key: &'static str) -> impl FnOnce(InputError) -> Self {
        move |error| Self { hint: error.hint(), ..Self::new(key, error.to_string()) }
    }

    pub(crate) fn silent() -> Self {
        Self { silent: true, ..Self::new("", "") }
    }
}

/// The state of lowering, with the plan so far.
#[derive(Debug)]
pub(crate) struct Lowering<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) directories: Directories,
    pub(crate) disks: Vec<ImageDisk>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) names: Names,
    /// Volume groups, with the tags of their physical volumes.
    pub(crate) groups: Vec<(String, Vec<String>)>,
    /// Nodes of LUKS containers, in order.
    pub(crate) containers: Vec<String>,
    /// Containers whose key is replaced at the end: node of the device, key during the build,
    /// command.
    pub(crate) rekeys: Vec<(String, String, String)>,
    /// Filesystem labels; a plan requires unique ones.
    pub(crate) labels: BTreeSet<String>,
    /// The architecture of the image.
    pub(crate) arch: String,
    pub(crate) packages: BTreeSet<String>,
    pub(crate) rootfs_unpacked: bool,
    /// Whether and where the tarball of the root filesystem exists.
    pub(crate) tarball: Tarball,
    /// The numbers of the steps that unpack it.
    pub(crate) unpack_steps: Vec<usize>,
    pub(crate) got_eatmydata: bool,
    /// Paths of all images that the spec creates.
    pub(crate) images: Vec<String>,
    /// Whether host files have been uploaded.
    pub(crate) has_host_files: bool,
    /// Whether the spec's directory is among them.
    pub(crate) has_folder: bool,
    /// Roots of trees with lent files.
    pub(crate) lent: Vec<GuestPath>,
    pub(crate) notes: Vec<String>,
    pub(crate) binds: Vec<(String, Bind)>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) narration: Narration,
    pub(crate) complaints: Vec<Complaint>,
    pub(crate) warnings: Vec<Complaint>,
    pub(crate) poisoned: BTreeSet<String>,
    pub(crate) current: (String, Position, Vec<(String, Position)>),
    /// Set after an `error` step: no later step can run.
    pub(crate) failed: bool,
    pub(crate) number: usize,
}

/// Where the tarball of the root filesystem exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tarball {
    Missing,
    OnHost,
    InGuest,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        let directories = Directories(settings.sources.clone());
        let on_host =
            settings.rootfs_tarball.as_ref().is_some_and(|path| directories.has_file(path));
        Self {
            settings,
            directories,
            disks: Vec::new(),
            tags: Vec::new(),
            names: Names::default(),
            groups: Vec::new(),
            containers: Vec::new(),
            rekeys: Vec::new(),
            labels: BTreeSet::new(),
            arch: settings.machine.architecture().debian().to_owned(),
            packages: BTreeSet::new(),
            rootfs_unpacked: false,
            tarball: if on_host { Tarball::OnHost } else { Tarball::Missing },
            unpack_steps: Vec::new(),
            got_eatmydata: false,
            images: Vec::new(),
            has_host_files: false,
            has_folder: false,
            lent: Vec::new(),
            notes: Vec::new(),
            binds: Vec::new(),
            stages: Vec::new(),
            narration: Narration::default(),
            complaints: Vec::new(),
            warnings: Vec::new(),
            poisoned: BTreeSet::new(),
            current: (String::new(), Position::default(), Vec::new()),
            failed: false,
            number: 0,
        }
    }

    /// The position of a key's value in the current step.
    pub(crate) fn place_of(&self, key: &str) -> Position {
        let (_, at, places) = &self.current;
        places.iter().find(|(name, _)| name == key).map_or(*at, |(_, at)| *at)
    }

    /// Adds a warning.
    pub(crate) fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.warnings.push(Complaint {
            at: self.place_of(key),
            step: Some(self.current.0.clone()),
            message: message.into(),
            hint: None,
        });
    }

    /// The note of the current step.
    pub(crate) fn note(&mut self) -> &mut StepNote {
        self.narration.steps.last_mut().expect("a step is noted before it is lowered")
    }

    /// Marks that no later step can run.
    pub(crate) fn fail_here(&mut self) {
        self.failed = true;
    }

    /// The context of a stage at this point.
    pub(crate) fn context(&self, image: Option<&GuestPath>, network: bool) -> Context {
        Context {
            image_root: image.cloned(),
            layout_at: Some(GuestPath::new(LAYOUT_AT).expect("a constant normal path")),
            image_system_mounts: false,
            binds: self.binds.iter().map(|(_, bind)| bind.clone()).collect(),
            ca_bundle: network && image.is_some(),
        }
    }

    /// Adds a stage of the current step, named `NN-name`; the suffix distinguishes several stages
    /// of one step.
    pub(crate) fn stage(
        &mut self,
        ending: &str,
        image: Option<&GuestPath>,
        network: bool,
        work: Vec<Work>,
    ) {
        if self.failed {
            return;
        }
        let name = match self.narration.steps.last() {
            Some(note) => format!("{:02}-{}{ending}", note.number, note.name),
            None => ending.to_owned(),
        };
        let context = self.context(image, network);
        let (steps, commands): (Vec<Step>, Vec<Option<Vec<String>>>) =
            work.into_iter().map(|work| (work.step, work.command)).unzip();
        let commands =
            commands.into_iter().flatten().map(|argv| Narration::command(&argv)).collect();
        self.narration.commands.push(commands);
        let index = self.stages.len();
        if let Some(note) = self.narration.steps.last_mut() {
            note.stages.push(index);
        }
        self.stages.push(Stage {
            name,
            context,
            steps,
            network,
            keep: plan::Keep::Shared,
            timeout_s: None,
        });
    }

    /// Adds a stage of the current step without bind mounts in the image.
    pub(crate) fn bare_stage(&mut self, image: &GuestPath, work: Vec<Work>) {
        let binds = std::mem::take(&mut self.binds);
        self.stage("", Some(image), false, work);
        self.binds = binds;
    }

    /// Whether a later step unpacks the tarball of the root filesystem.
    pub(crate) fn unpacks_later(&self) -> bool {
        self.unpack_steps.iter().any(|number| *number > self.number)
    }

    /// The number of stages so far, to find a stage again later.
    pub(crate) fn stage_count(&self) -> usize {
        self.stages.len()
    }

    /// The facts that name all devices, if a disk exists.
    pub(crate) fn link_arguments(&self) -> Vec<Value> {
        let mut arguments = Vec::new();
        for disk in &self.disks {
            arguments.push(Value::Text(disk.path.clone()));
            arguments.push(Value::Fact(format!("device.{}", disk.name)));
        }
        arguments
    }

    /// Adds a bind mount to a root, for this and later stages.
    pub(crate) fn bind(&mut self, tag: &str, from: GuestPath, to: GuestPath) {
        if !self.binds.iter().any(|(_, bind)| bind.to == to) {
            self.binds.push((tag.to_owned(), Bind { from, to, read_only: false }));
        }
    }
}

/// Parses a guest path, or returns the complaint.
pub(crate) fn guest_path(key: &'static str, path: &str) -> Result<GuestPath, Fault> {
    let path: Vec<&str> = path.split('/').filter(|part| *part != ".").collect();
    GuestPath::new(path.join("/")).map_err(|error| Fault::new(key, error.to_string()))
}
