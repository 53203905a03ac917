//! From steps to a plan: one stage for each step that does something in the
//! guest, each with everything it needs mounted, so that it can be started from
//! the disks that the stage before it left.
//!
//! ```text
//! /build/image/TAG       where a filesystem is mounted that has no `dirname`
//! /build/vmdb            working directory of `shell`
//! /build/vmdb/NN         what step NN needs from the host
//! /build/rootfs-cache    the tarball of cache-rootfs and unpack-rootfs
//! ```

use std::{collections::BTreeSet, path::PathBuf};

use plan::{
    Bind, Context, Disk, DiskRole, DiskSize, Env, GuestPath, ImageOutput, Layout, Node, NodeKind,
    Outputs, Place, Plan, Run, Stage, Step, Value,
};

use crate::{
    complaint::{Complaint, SpecError},
    inputs::{Directories, InputError},
    narration::{Narration, StepNote, Wording},
    spec::{self, Spec},
    state::{Device, ImageDisk, MountedAt, Names, Tag},
    table,
    yaml::Position,
};

/// Where the layout is mounted.
pub(crate) const LAYOUT_AT: &str = "/build/image";
/// Working directory of commands outside of the image.
pub(crate) const WORK_AT: &str = "/build/vmdb";
/// The scratch disk: sparse, so this only bounds what a build may leave there
/// beside the image itself (an unpacked tarball, copied trees, caches).
const SCRATCH_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Prepared resolver for the image; see the script.
const RESOLVER_SH: &str = include_str!("../scripts/resolver.sh");
const BINFMT_SH: &str = include_str!("../scripts/binfmt.sh");
const REKEY_SH: &str = include_str!("../scripts/rekey.sh");

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
    pub formats: Vec<String>,
    /// Whether formats compress that can.
    pub compress: bool,
    /// Options for the format, `k=v,k=v`.
    pub format_options: Option<String>,
    /// Checksum files.
    pub checksums: Vec<plan::Checksum>,
    /// The architecture of the machine that builds, as Debian calls it.
    pub arch: String,
    /// Directories where relative paths of the spec are looked up, in order.
    pub directories: Vec<PathBuf>,
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
        move |error| Self::new(key, error.to_string())
    }

    fn silent() -> Self {
        Self { silent: true, ..Self::new("", "") }
    }
}

/// A step of a stage, and the command that it stands for in the narration.
#[derive(Debug)]
pub(crate) struct Work {
    step: Step,
    command: Option<Vec<String>>,
}

impl From<Step> for Work {
    fn from(step: Step) -> Self {
        Self { step, command: None }
    }
}

/// Lowers a spec.
///
/// # Errors
/// Everything that is wrong with it and was not seen while it was read.
pub fn lower(spec: &Spec, settings: &Settings) -> Result<Lowered, SpecError> {
    let mut lowering = Lowering::new(settings);
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
    pub(crate) got_eatmydata: bool,
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
        let directories = Directories(settings.directories.clone());
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
            got_eatmydata: false,
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
                self.complaints.push(complaint);
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

    // Tags and devices.

    pub(crate) fn add_tag(&mut self, key: &'static str, tag: Tag) -> Result<(), Fault> {
        if self.tags.iter().any(|other| other.name == tag.name) {
            return Err(Fault::new(key, format!("the tag `{}` is already in use", tag.name)));
        }
        self.tags.push(tag);
        Ok(())
    }

    pub(crate) fn tag(&self, key: &'static str, name: &str) -> Result<&Tag, Fault> {
        if self.poisoned.contains(name) {
            return Err(Fault::silent());
        }
        self.tags.iter().find(|tag| tag.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.tags.iter().map(|tag| tag.name.as_str()).collect();
            let fault = Fault::new(key, format!("there is no tag `{name}` at this step"));
            match crate::complaint::nearest(name, &known) {
                Some(meant) => fault.hint(format!("did you mean `{meant}`?")),
                None if known.is_empty() => fault,
                None => fault.hint(format!("the tags are {}", crate::fields::listed(&known))),
            }
        })
    }

    pub(crate) fn tag_mut(&mut self, key: &'static str, name: &str) -> Result<&mut Tag, Fault> {
        self.tag(key, name)?;
        self.tags.iter_mut().find(|tag| tag.name == name).ok_or_else(Fault::silent)
    }

    /// Where a tag's filesystem is mounted.
    pub(crate) fn mounted(&self, key: &'static str, name: &str) -> Result<&MountedAt, Fault> {
        self.tag(key, name)?.mounted.as_ref().ok_or_else(|| {
            Fault::new(key, format!("`{name}` is not mounted at this step"))
                .hint(format!("put `mount: {name}` before it"))
        })
    }

    /// The tag that is mounted at `/`, for steps that name none.
    pub(crate) fn root_tag(&self) -> Result<String, Fault> {
        let is_root = |tag: &&Tag| tag.mounted.as_ref().is_some_and(|m| m.target == "/");
        match self.tags.iter().find(is_root) {
            Some(tag) => Ok(tag.name.clone()),
            None if self.poisoned.is_empty() => {
                Err(Fault::new("", "no filesystem is mounted at `/` at this step"))
            }
            None => Err(Fault::silent()),
        }
    }

    /// The disk that the spec calls by a path.
    pub(crate) fn disk(&self, key: &'static str, path: &str) -> Result<usize, Fault> {
        if self.poisoned.contains(path) {
            return Err(Fault::silent());
        }
        self.disks.iter().position(|disk| disk.path == path).ok_or_else(|| {
            let fault = Fault::new(key, format!("`{path}` is no image of this build"));
            fault.hint("`mkimg` makes an image; in the spec it is mostly \"{{ output }}\"")
        })
    }

    /// The disk below a tag.
    pub(crate) fn disk_below(&self, key: &'static str, name: &str) -> Result<usize, Fault> {
        match &self.tag(key, name)?.device {
            Device::Partition { disk, .. } => Ok(*disk),
            Device::Container { below } => self.disk_below(key, below),
            Device::Volume { group } => {
                let physical = self.groups.iter().find(|(name, _)| name == group);
                match physical.and_then(|(_, tags)| tags.first()) {
                    Some(tag) => self.disk_below(key, tag),
                    None => Err(Fault::silent()),
                }
            }
        }
    }

    // Paths.

    /// The root of a tag's filesystem, seen from the tools.
    pub(crate) fn root_of(&self, key: &'static str, tag: &str) -> Result<GuestPath, Fault> {
        let point = &self.mounted(key, tag)?.point;
        guest_path(key, &format!("{LAYOUT_AT}{point}"))
    }

    /// A directory for files that the current step needs.
    pub(crate) fn own_directory(&self) -> GuestPath {
        GuestPath::new(format!("{WORK_AT}/{:02}", self.number)).expect("digits are a normal name")
    }

    // Stages.

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
        self.stages.push(Stage { name, context, steps, network });
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

    // Commands.

    /// A command outside of the image.
    pub(crate) fn tool(&self, what: &str, argv: Vec<Value>) -> Command {
        Command::new(format!("{}: {what}", self.current.0), argv)
    }

    /// A script of this crate, outside of the image.
    pub(crate) fn script(&self, what: &str, script: &str, arguments: Vec<Value>) -> Command {
        let mut argv: Vec<Value> = vec!["sh".into(), "-c".into(), script.into()];
        argv.push(what.into());
        argv.extend(arguments);
        self.tool(what, argv)
    }

    /// A command in the image, with a resolver that works.
    pub(crate) fn in_image(&self, root: &GuestPath, what: &str, argv: Vec<Value>) -> Command {
        let mut chroot: Vec<Value> = vec!["chroot".into(), root.as_str().into()];
        chroot.extend(argv);
        self.with_resolver(root, what, chroot)
    }

    /// A command outside of the image that works on it, with a resolver in the
    /// image that works.
    pub(crate) fn with_resolver(&self, root: &GuestPath, what: &str, argv: Vec<Value>) -> Command {
        let shown = Command::words(&argv);
        let mut arguments: Vec<Value> = vec![root.as_str().into()];
        arguments.extend(argv);
        Command { shown, ..self.script(what, RESOLVER_SH, arguments) }
    }

    /// What must stand before commands in an image of another architecture.
    pub(crate) fn emulation(&mut self) -> Vec<Work> {
        if !is_foreign(&self.arch, &self.settings.arch) {
            return Vec::new();
        }
        self.packages.insert("qemu-user-static".into());
        let arch = Value::Text(self.arch.clone());
        vec![self.script("emulate", BINFMT_SH, vec![arch]).work()]
    }

    /// Adds a stage that runs commands in an image.
    pub(crate) fn image_stage(&mut self, root: &GuestPath, commands: Vec<Command>) {
        let mut work = self.emulation();
        work.extend(commands.into_iter().map(Command::work));
        // A daemon that a package started would keep the filesystem busy.
        work.push(Step::KillProcesses { root: root.clone() }.into());
        self.stage("", Some(root), true, work);
    }

    // The end.

    fn finish(mut self, spec: &Spec) -> Result<Lowered, SpecError> {
        if !self.failed && !self.stages.is_empty() {
            self.finish_stage();
        }
        self.write_tables();
        let outputs = self.outputs();
        if !self.complaints.is_empty() {
            return Err(SpecError::new(&spec.source, self.complaints));
        }
        let mut narration = self.narration;
        narration.opening =
            Narration::opening(&self.settings.spec, &spec.repr, self.settings.wording);
        let scratch = Disk {
            name: "scratch".into(),
            role: DiskRole::Scratch,
            size: DiskSize::Bytes(SCRATCH_BYTES),
            block_bytes: 512,
        };
        let targets = self.disks.iter().map(|disk| Disk {
            name: disk.name.clone(),
            role: DiskRole::Target,
            size: DiskSize::Bytes(disk.bytes),
            block_bytes: 512,
        });
        let plan = Plan {
            format_version: plan::FORMAT_VERSION,
            name: self.settings.build_name(),
            recipe: "vmdb".into(),
            disks: std::iter::once(scratch).chain(targets).collect(),
            stages: self.stages,
            outputs,
            helper_at: GuestPath::new("/build/helper").expect("a constant normal path"),
        };
        let mut warnings = spec.warnings.clone();
        warnings.extend(self.warnings);
        warnings.sort_by_key(|warning| warning.at);
        Ok(Lowered { plan, packages: self.packages.into_iter().collect(), warnings, narration })
    }

    /// What comes after the last step: keys are replaced, free blocks given
    /// back. Mounts of system directories are gone by then.
    fn finish_stage(&mut self) {
        self.binds.clear();
        self.current.0 = "finish".into();
        let mut work: Vec<Work> = Vec::new();
        for (node, old, command) in std::mem::take(&mut self.rekeys) {
            let arguments = vec![Value::Fact(format!("device.{node}")), old.into(), command.into()];
            work.push(self.script("replace the key", REKEY_SH, arguments).work());
        }
        if self.tags.iter().any(|tag| tag.mounted.is_some()) {
            work.push(Step::Trim.into());
        }
        if work.is_empty() {
            return;
        }
        let context = self.context(None, false);
        let commands = work.iter().filter_map(|w| w.command.as_ref());
        self.narration.commands.push(commands.map(|argv| Narration::command(argv)).collect());
        let steps = work.into_iter().map(|work| work.step).collect();
        self.stages.push(Stage { name: "finish".into(), context, steps, network: false });
    }

    /// Puts the tables, which are whole only now, where their labels were made.
    fn write_tables(&mut self) {
        for disk in &self.disks {
            let (Some(label), Some((stage, step))) = (disk.label, disk.table_at) else { continue };
            match table::table(&disk.name, label, disk.bytes, &disk.parts) {
                Ok(table) => {
                    let name = self.names.claim(&format!("table-{}", disk.name));
                    let node = Node { name, kind: NodeKind::Table(table) };
                    let place = self.stages.get_mut(stage).and_then(|s| s.steps.get_mut(step));
                    if let Some(place) = place {
                        *place = Step::CreateLayout(Layout { nodes: vec![node] });
                    }
                }
                Err(message) => self.complaints.push(Complaint {
                    at: Position { line: 1, column: 1 },
                    step: None,
                    message: format!("the partition table of `{}`: {message}", disk.path),
                    hint: None,
                }),
            }
        }
    }

    fn outputs(&self) -> Outputs {
        let mut images = Vec::new();
        for disk in &self.disks {
            let is_output = Some(&disk.path) == self.settings.output.as_ref()
                || Some(&disk.path) == self.settings.image.as_ref();
            let (own, path) = crate::cli::format_of(&disk.path);
            let wanted: Vec<(String, PathBuf)> = if is_output && !self.settings.formats.is_empty() {
                let by_format = |format: &String| {
                    let file =
                        if *format == own { disk.path.clone() } else { format!("{path}.{format}") };
                    (format.clone(), PathBuf::from(file))
                };
                self.settings.formats.iter().map(by_format).collect()
            } else {
                vec![(own.to_owned(), PathBuf::from(&disk.path))]
            };
            images.extend(wanted.into_iter().map(|(format, path)| ImageOutput {
                disk: disk.name.clone(),
                format,
                path,
                compress: self.settings.compress,
                options: self.settings.format_options.clone(),
            }));
        }
        // vmdb2 writes over what is there.
        Outputs { images, checksums: self.settings.checksums.clone(), overwrite: true }
    }
}

impl Settings {
    /// The build's name: the spec's file name without its ending.
    fn build_name(&self) -> String {
        let stem = std::path::Path::new(&self.spec).file_stem();
        match stem.map(|stem| stem.to_string_lossy().into_owned()) {
            Some(name) if name != "-" => name,
            _ => "vmdb".into(),
        }
    }
}

/// Whether programs of an architecture need an emulator.
pub(crate) fn is_foreign(arch: &str, machine: &str) -> bool {
    arch != machine && !(arch == "i386" && machine == "amd64")
}

/// A path of the guest, or the complaint.
pub(crate) fn guest_path(key: &'static str, path: &str) -> Result<GuestPath, Fault> {
    let path: Vec<&str> = path.split('/').filter(|part| *part != ".").collect();
    GuestPath::new(path.join("/")).map_err(|error| Fault::new(key, error.to_string()))
}

/// A command of a stage.
#[derive(Debug)]
pub(crate) struct Command {
    what: String,
    argv: Vec<Value>,
    env: Env,
    cwd: &'static str,
    capture: Option<String>,
    /// What is shown of it.
    shown: Vec<String>,
}

impl Command {
    fn new(what: String, argv: Vec<Value>) -> Self {
        let env = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LC_ALL", "C.UTF-8"),
        ];
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Self { what, shown: Self::words(&argv), argv, env, cwd: "/", capture: None }
    }

    fn words(argv: &[Value]) -> Vec<String> {
        let word = |value: &Value| match value {
            Value::Text(text) => text.clone(),
            Value::Fact(fact) => format!("<{fact}>"),
        };
        argv.iter().map(word).collect()
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn cwd(mut self, cwd: &'static str) -> Self {
        self.cwd = cwd;
        self
    }

    pub(crate) fn capture(mut self, fact: String) -> Self {
        self.capture = Some(fact);
        self
    }

    /// Shows something else than the words of the command.
    pub(crate) fn shown(mut self, words: &[&str]) -> Self {
        self.shown = words.iter().map(ToString::to_string).collect();
        self
    }

    pub(crate) fn work(self) -> Work {
        let step = Step::Run(Run {
            what: self.what,
            place: Place::Tools,
            argv: self.argv,
            env: self.env,
            environment: None,
            cwd: GuestPath::new(self.cwd).expect("constants are normal paths"),
            stdin: None,
            capture: self.capture,
        });
        Work { step, command: Some(self.shown) }
    }
}
