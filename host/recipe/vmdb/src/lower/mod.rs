//! From steps to a plan: one stage for each step that does something in the
//! guest, each with everything it needs mounted, so that it can be started from
//! the disks that the stage before it left.
//!
//! ```text
//! /build/image/TAG       where a filesystem is mounted that has no `dirname`
//! /build/spec            working directory of `shell`: the spec's folder, read only
//! /build/vmdb/NN         what step NN needs from the host
//! /build/rootfs-cache    the tarball of cache-rootfs and unpack-rootfs
//! ```

mod command;
mod finish;
mod host_files;
mod lent;
mod lookup;

use std::{collections::BTreeSet, path::PathBuf};

use inputs::Sources;
use plan::{Bind, Context, GuestPath, Plan, Stage, Step, Value};

pub(crate) use command::{Command, Work};

use crate::{
    cli::FormatChoice,
    complaint::{Complaint, SpecError},
    inputs::{Directories, InputError},
    narration::{Narration, StepNote, Wording},
    shares::Shared,
    spec::{self, Spec},
    state::{ImageDisk, Names, Tag},
    steps::Action,
    yaml::Position,
};

/// Where the layout is mounted.
pub(crate) const LAYOUT_AT: &str = "/build/image";
/// What steps need of their own.
pub(crate) const OWN_AT: &str = "/build/vmdb";
/// The working directory of `shell`: the spec's own folder is bound to it, or what the user
/// shares under this name is put there.
pub(crate) const WORK_AT: &str = "/build/spec";

/// What a spec is lowered with, beside its text.
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
    /// Formats of the output, when not told by its suffix.
    pub formats: Vec<FormatChoice>,
    /// Name and tag of container images.
    pub docker_target: Option<String>,
    /// Whether formats compress that can.
    pub compress: bool,
    /// Options for the format, `k=v,k=v`.
    pub format_options: Option<String>,
    /// Checksum files.
    pub checksums: Vec<plan::Checksum>,
    /// The architecture of the machine that builds, as Debian calls it.
    pub arch: String,
    /// Which files of the host the spec may name, and where relative paths are looked up.
    pub sources: Sources,
    /// What the user shares with commands.
    pub shares: Vec<Shared>,
    /// The folder that `shell` steps see, without links.
    pub folder: Option<PathBuf>,
    /// Every file of the host that the run writes, without links.
    pub written: Vec<PathBuf>,
    /// Whether what vmdb2 passes over in silence is only warned of.
    pub lenient: bool,
    /// Whose wording the narration has.
    pub wording: Wording,
}

/// A spec, lowered.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// What is to be done. Without any stage the spec needs no machine; see
    /// [`Narration::run_local`].
    pub plan: Plan,
    /// Packages that the appliance needs beyond what every appliance has.
    pub packages: Vec<String>,
    /// What is worth knowing, but no reason to stop.
    pub warnings: Vec<Complaint>,
    /// What is worth knowing of the build as a whole, a line each.
    pub notes: Vec<String>,
    /// What is said under `-v`.
    pub narration: Narration,
}

/// Why a step cannot be lowered.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The key that it is about.
    key: &'static str,
    message: String,
    hint: Option<String>,
    /// A consequence of another complaint, which says enough.
    silent: bool,
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

    fn silent() -> Self {
        Self { silent: true, ..Self::new("", "") }
    }
}

/// Lowers a spec.
///
/// # Errors
/// Everything that is wrong with it and was not seen while it was read.
pub fn lower(spec: &Spec, settings: &Settings) -> Result<Lowered, SpecError> {
    let mut lowering = Lowering::new(settings);
    for step in &spec.steps {
        step.action.fixed_name().into_iter().for_each(|name| lowering.names.promise(name));
        match &step.action {
            Action::UnpackRootfs(_) => lowering.unpack_steps.push(step.number),
            Action::Mkimg(image) => lowering.images.push(image.path.clone()),
            _ => {}
        }
    }
    for step in &spec.steps {
        lowering.step(step);
    }
    lowering.finish(spec)
}

/// The plan while it grows.
#[derive(Debug)]
pub(crate) struct Lowering<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) directories: Directories,
    pub(crate) disks: Vec<ImageDisk>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) names: Names,
    /// Volume groups with the tags of their physical volumes.
    pub(crate) groups: Vec<(String, Vec<String>)>,
    /// Nodes of LUKS containers, in order.
    pub(crate) containers: Vec<String>,
    /// Containers whose key is replaced at the end: device's node, key of the
    /// build, command.
    pub(crate) rekeys: Vec<(String, String, String)>,
    /// Labels of filesystems; a plan wants them unique.
    pub(crate) labels: BTreeSet<String>,
    /// The architecture of the image.
    pub(crate) arch: String,
    pub(crate) packages: BTreeSet<String>,
    pub(crate) rootfs_unpacked: bool,
    /// Whether the tarball exists by now, and whether in the guest.
    pub(crate) tarball: Tarball,
    /// Numbers of the steps that unpack it.
    unpack_steps: Vec<usize>,
    pub(crate) got_eatmydata: bool,
    /// Paths of all images that the spec makes.
    images: Vec<String>,
    /// Whether files of the host have been put into the machine.
    has_host_files: bool,
    /// Whether the spec's folder is among them.
    has_folder: bool,
    /// Roots of trees that hold something for the time of the build.
    lent: Vec<GuestPath>,
    notes: Vec<String>,
    binds: Vec<(String, Bind)>,
    stages: Vec<Stage>,
    narration: Narration,
    complaints: Vec<Complaint>,
    warnings: Vec<Complaint>,
    poisoned: BTreeSet<String>,
    current: (String, Position, Vec<(String, Position)>),
    /// An `error` step has been lowered: nothing after it can run.
    failed: bool,
    number: usize,
}

/// Where the tarball of the root filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tarball {
    Missing,
    OnHost,
    InGuest,
}

impl<'a> Lowering<'a> {
    fn new(settings: &'a Settings) -> Self {
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
            arch: settings.arch.clone(),
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

    fn step(&mut self, step: &spec::Step) {
        self.current = (step.title(), step.at, step.places.clone());
        self.number = step.number;
        let skipped = self.is_skipped(step);
        self.narration.steps.push(StepNote {
            number: step.number,
            name: step.name.to_owned(),
            at: step.at,
            skipped,
            ..StepNote::default()
        });
        let outcome =
            if skipped { step.action.lower_skipped(self) } else { step.action.lower(self) };
        if let Err(fault) = outcome {
            for name in step.action.defines() {
                self.poisoned.insert(name);
            }
            if !fault.silent {
                let at = self.place_of(fault.key);
                self.complaints.push(Complaint {
                    at,
                    step: Some(self.current.0.clone()),
                    message: fault.message,
                    hint: fault.hint,
                });
            }
        }
    }

    /// Where the value of a key of the current step stands.
    fn place_of(&self, key: &str) -> Position {
        let (_, at, places) = &self.current;
        places.iter().find(|(name, _)| name == key).map_or(*at, |(_, at)| *at)
    }

    /// Whether `unless` skips a step: all of its flags are set. Everything that
    /// sets a flag is known before the build, so this is decided here.
    fn is_skipped(&mut self, step: &spec::Step) -> bool {
        let Some(flags) = &step.unless else { return false };
        for flag in flags.iter().filter(|flag| *flag != "rootfs_unpacked") {
            let complaint = Complaint {
                at: self.place_of("unless"),
                step: Some(step.title()),
                message: format!("no step sets the flag `{flag}`"),
                hint: Some("the one flag is `rootfs_unpacked`".into()),
            };
            if self.settings.lenient {
                self.warnings.push(complaint);
            } else {
                self.complaints.push(complaint.can_be_passed_over());
            }
        }
        flags.iter().all(|flag| flag == "rootfs_unpacked" && self.rootfs_unpacked)
    }

    /// Says something that is no reason to stop.
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

    /// Nothing that comes later can run.
    pub(crate) fn fail_here(&mut self) {
        self.failed = true;
    }

    /// The context of a stage now.
    fn context(&self, image: Option<&GuestPath>, network: bool) -> Context {
        Context {
            image_root: image.cloned(),
            layout_at: Some(GuestPath::new(LAYOUT_AT).expect("a constant normal path")),
            image_system_mounts: false,
            binds: self.binds.iter().map(|(_, bind)| bind.clone()).collect(),
            ca_bundle: network && image.is_some(),
        }
    }

    /// Adds a stage of the current step, `NN-name` with an ending for steps
    /// that need more than one.
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

    /// Adds a stage of the current step whose image has nothing bound into it.
    pub(crate) fn bare_stage(&mut self, image: &GuestPath, work: Vec<Work>) {
        let binds = std::mem::take(&mut self.binds);
        self.stage("", Some(image), false, work);
        self.binds = binds;
    }

    /// Whether a later step unpacks the tarball of the root filesystem.
    pub(crate) fn unpacks_later(&self) -> bool {
        self.unpack_steps.iter().any(|number| *number > self.number)
    }

    /// How many stages there are, for whoever must find one again.
    pub(crate) fn stage_count(&self) -> usize {
        self.stages.len()
    }

    /// Whether a disk has been made: then facts name all devices.
    pub(crate) fn link_arguments(&self) -> Vec<Value> {
        let mut arguments = Vec::new();
        for disk in &self.disks {
            arguments.push(Value::Text(disk.path.clone()));
            arguments.push(Value::Fact(format!("device.{}", disk.name)));
        }
        arguments
    }

    /// Binds something into a root from now on.
    pub(crate) fn bind(&mut self, tag: &str, from: GuestPath, to: GuestPath) {
        if !self.binds.iter().any(|(_, bind)| bind.to == to) {
            self.binds.push((tag.to_owned(), Bind { from, to, read_only: false }));
        }
    }
}

/// A path of the guest, or the complaint.
pub(crate) fn guest_path(key: &'static str, path: &str) -> Result<GuestPath, Fault> {
    let path: Vec<&str> = path.split('/').filter(|part| *part != ".").collect();
    GuestPath::new(path.join("/")).map_err(|error| Fault::new(key, error.to_string()))
}
