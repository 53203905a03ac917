//! Lowers a project to a plan.

use std::path::{Path, PathBuf};

use plan::{
    Bind, Context, Disk, DiskBase, DiskName, DiskRole, DiskSize, Env, FileSource, FileStep,
    GuestPath, ImageOutput, Keep, MachineArchitecture, Outputs, PROGRAM_PATH, Place, Plan,
    ResolvConf, Run, Stage, Step, TreeOutput, UnixPath, Upload, UploadEntry, UploadKind, Value,
};

use inputs::{Source, SourceError, Sources};

use crate::{Kind, Layer, Project, hints};

/// The disk's name in the plan.
pub const DISK: &str = "disk";
/// Mount point of the image's filesystems, relative to the tools root.
pub const ROOT: &str = "/build/root";
/// The layer's directory, bound to /mnt in the chroot. All layers use the same path, so that no
/// stage depends on the names of later ones.
const LAYER: &str = "/build/layer";
/// Bound to /tmp in the chroot; on the scratch disk, so that its content does not end up in the
/// image.
const TMP: &str = "/build/tmp";
/// Source directory of binds.
const BINDS: &str = "/build/binds";
/// The directory in which modify-disk scripts run, with the stand-ins for their tools.
const IMAGES: &str = "/build/images";
const STAND_INS: &str = "/build/stand-ins";
/// The device that modify-disk scripts get. Its partitions are named with a `p`, like those of a
/// network block device; it is the last of the eight that every kernel has.
const DEVICE: &str = "/dev/loop7";
/// Content of an image file that stands for the disk of the build; the stand-ins have the same
/// text.
const MARKER: &str = "vbuild: the disk of this build\n";
/// Directory for the manifest, relative to the tools root.
const MANIFEST: &str = "/build/manifest";
/// Size of the scratch disk. It is sparse, so this only limits what layers may leave in /tmp.
const SCRATCH_BYTES: u64 = 64 << 30;
/// Creates the mount points of binds; paths of directories end with a slash. Existing ones are
/// unchanged.
const BIND_SCRIPT: &str = r#"set -eu
for place in "$@"; do
    case "$place" in
        */) mkdir -p "$place" ;;
        *) mkdir -p "${place%/*}"; test -e "$place" || : > "$place" ;;
    esac
done"#;

const QEMU_IMG: &str = include_str!("../scripts/qemu-img");
const QEMU_NBD: &str = include_str!("../scripts/qemu-nbd");
const GROWPART: &str = include_str!("../scripts/growpart");
const SETTLE: &str = include_str!("../scripts/settle");
const MANIFEST_PY: &str = include_str!("../scripts/manifest.py");

/// What to build from a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// The initial content of the disk.
    pub base: DiskBase,
    /// The size in bytes of the disk and its root filesystem.
    pub size: Option<u64>,
    /// Which filesystem is the root, if the base has several.
    pub root: Option<String>,
    /// The layers to build, see [`Project::up_to`].
    pub layers: &'a [Layer],
    /// The outputs.
    pub target: Target,
}

/// The outputs of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The files to write.
    pub files: Vec<File>,
    /// Whether formats that can compress do so.
    pub compress: bool,
    /// Options for qcow2 or for the only format, `k=v,k=v`.
    pub options: Option<String>,
    /// Kinds of checksum files beside the outputs.
    pub checksums: Vec<plan::Checksum>,
}

/// An output file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// The name of the format.
    pub format: String,
    /// The path.
    pub path: PathBuf,
    /// Whether it is made from the file tree instead of the disk.
    pub is_of_tree: bool,
    /// Name and tag of a container image.
    pub container: Option<String>,
}

fn at(path: &str) -> GuestPath {
    GuestPath::new(path).expect("made of constant normal paths")
}

/// A lowered project.
#[derive(Debug, Clone, PartialEq)]
pub struct Lowered {
    /// The plan.
    pub plan: Plan,
    /// Warnings about files that are left out.
    pub warnings: Vec<String>,
}

/// Lowers a project.
///
/// # Errors
/// Fails if a file of a layer cannot or may not be read.
pub fn lower(project: &Project, request: &Request<'_>) -> Result<Lowered, SourceError> {
    let mut warnings = Vec::new();
    let folder = std::fs::canonicalize(&project.folder).unwrap_or(project.folder.clone());
    let name = folder.file_name().map_or("layers".into(), |name| name.to_string_lossy());
    let root = request.root.as_deref();
    let mut stages = vec![base_stage(request.size.is_some(), root), mount_points_stage()];
    for layer in request.layers {
        stages.extend(match layer.kind {
            Kind::BuildLayer => build_layer(layer, &project.sources, &mut warnings)?,
            Kind::ModifyDisk => vec![modify_disk(layer, root, &mut warnings)?],
        });
        if let (Some(stage), Some(limit)) = (stages.last_mut(), timeout(project, layer)) {
            stage.timeout_s = Some(limit);
        }
    }
    let target = &request.target;
    let (trees, disks): (Vec<&File>, Vec<&File>) =
        target.files.iter().partition(|file| file.is_of_tree);
    let mut finish: Vec<Step> = trees.into_iter().map(export).collect();
    finish.push(Step::Trim);
    stages.push(stage("finish", mounted(), finish));
    let is_only = disks.len() == 1;
    let plan = Plan {
        outputs: Outputs {
            images: disks
                .into_iter()
                .map(|file| ImageOutput {
                    disk: DiskName::new(DISK).expect("a constant name"),
                    format: file.format.clone(),
                    path: file.path.clone(),
                    compress: target.compress,
                    options: target.options.clone().filter(|_| is_only || file.format == "qcow2"),
                })
                .collect(),
            checksums: target.checksums.clone(),
            overwrite: true,
            epoch: None,
        },
        ..plan(&name, disk_bytes(request), request.base.clone(), stages)
    };
    Ok(Lowered { plan, warnings })
}

/// The step that exports an archive of the tree.
fn export(file: &File) -> Step {
    let target = file.container.clone();
    let output = TreeOutput { format: file.format.clone(), path: file.path.clone(), target };
    // lost+found is useful only to its own filesystem.
    Step::ExportTree { root: at(ROOT), exclude: vec!["lost+found".into()], output }
}

fn timeout(project: &Project, layer: &Layer) -> Option<u32> {
    project.config.timeouts.get(&layer.name).copied().or(project.config.timeout)
}

/// A plan that finds the root of an image and describes its content: it writes the file `manifest`
/// in a directory of the host.
#[must_use]
pub fn inspect(name: &str, base: DiskBase, root: Option<&str>, to: &Path) -> Plan {
    let script = UploadEntry { path: "manifest.py".into(), kind: executable(MANIFEST_PY) };
    let steps = vec![
        upload("the manifest's script", STAND_INS, vec![script]),
        make_directory(MANIFEST, 0o755),
        Step::Run(Run {
            what: "list files and packages".into(),
            place: Place::Tools,
            argv: [
                "/usr/bin/python3",
                &format!("{STAND_INS}/manifest.py"),
                ROOT,
                &format!("{MANIFEST}/manifest"),
            ]
            .map(Value::from)
            .to_vec(),
            env: env(PROGRAM_PATH),
            environment: None,
            cwd: at("/build"),
            stdin: None,
            capture: None,
        }),
        Step::Fetch { from: at(MANIFEST), to: to.to_owned() },
    ];
    let stages = vec![base_stage(false, root), stage("inspect", mounted(), steps)];
    plan(name, base.bytes, base, stages)
}

fn plan(name: &str, bytes: u64, base: DiskBase, stages: Vec<Stage>) -> Plan {
    let scratch = Disk {
        name: DiskName::scratch(),
        role: DiskRole::Scratch,
        size: DiskSize::Bytes(SCRATCH_BYTES),
        block_bytes: 512,
        base: None,
    };
    let disk = Disk {
        name: DiskName::new(DISK).expect("a constant name"),
        role: DiskRole::Target,
        size: DiskSize::Bytes(bytes),
        block_bytes: 512,
        base: Some(base),
    };
    Plan {
        format_version: plan::FORMAT_VERSION,
        name: name.to_owned(),
        recipe: crate::RECIPE.into(),
        architecture: MachineArchitecture::of_host().architecture(),
        disks: vec![scratch, disk],
        stages,
        outputs: Outputs::default(),
        helper_at: at("/build/helper"),
    }
}

/// The disk size: the largest of the base, the requested size, and those that scripts request.
fn disk_bytes(request: &Request<'_>) -> u64 {
    let base = request.base.bytes;
    request
        .layers
        .iter()
        .filter(|layer| layer.kind == Kind::ModifyDisk)
        .filter_map(|layer| hints::disk_bytes(&layer.script, base))
        .chain(request.size)
        .fold(base, u64::max)
        .next_multiple_of(512)
}

fn stage(name: &str, context: Context, steps: Vec<Step>) -> Stage {
    let keep = Keep::Shared;
    Stage { name: name.to_owned(), context, steps, network: false, keep, timeout_s: None }
}

/// The context with only the image's filesystems mounted.
fn mounted() -> Context {
    Context { layout_at: Some(at(ROOT)), ..Context::default() }
}

fn base_stage(grow: bool, root: Option<&str>) -> Stage {
    let mut steps: Vec<Step> = [LAYER, BINDS, IMAGES, STAND_INS, ROOT]
        .into_iter()
        .map(|path| make_directory(path, 0o755))
        .collect();
    steps.push(make_directory(TMP, 0o1777));
    steps.push(find_root(root));
    if grow {
        steps.push(Step::GrowRoot { disk: DISK.into() });
    }
    stage("base", Context::default(), steps)
}

fn find_root(root: Option<&str>) -> Step {
    Step::FindRoot { disk: DISK.into(), root: root.map(str::to_owned) }
}

/// Creates mount points that an image lacks. They stay in it: if they came and went with the
/// mounts, their presence would depend on the stage from which the cache resumes.
fn mount_points_stage() -> Stage {
    let places = ["proc", "sys", "dev", "mnt", "tmp"].map(|place| format!("{ROOT}/{place}"));
    stage("places", mounted(), vec![mount_points("mkdir -p \"$@\"", &places)])
}

fn mount_points(script: &str, places: &[String]) -> Step {
    let words = ["/bin/sh", "-c", script, "places"].into_iter().map(Value::from);
    Step::Run(Run {
        what: "make mount points".into(),
        place: Place::Tools,
        argv: words.chain(places.iter().map(|place| place.clone().into())).collect(),
        env: env(PROGRAM_PATH),
        environment: None,
        cwd: at("/build"),
        stdin: None,
        capture: None,
    })
}

fn make_directory(path: &str, mode: u32) -> Step {
    Step::File(FileStep::MakeDirectory { path: at(path), mode })
}

fn empty(path: &str) -> Step {
    Step::File(FileStep::Remove { path: at(path), content_only: true })
}

fn upload(what: &str, to: &str, entries: Vec<UploadEntry>) -> Step {
    Step::Upload(Upload { what: what.to_owned(), to: at(to), entries })
}

fn executable(text: &str) -> UploadKind {
    UploadKind::File { mode: 0o755, source: FileSource::Text(text.to_owned()) }
}

/// The environment that sudo gives to a command.
fn env(path: &str) -> Env {
    [
        ("PATH", path),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/sh"),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Value::from(value)))
    .collect()
}

fn keep(layer: &Layer) -> Keep {
    match (layer.hints.nocache, layer.hints.noshare) {
        (true, _) => Keep::No,
        (false, true) => Keep::Local,
        (false, false) => Keep::Shared,
    }
}

/// Keeps the disks at the end of a layer, for `compare-layers`.
fn keep_disks(layer: &Layer) -> Keep {
    match keep(layer) {
        Keep::Shared => Keep::Disks,
        other => other,
    }
}

/// Runs a script in a chroot of the image. The sources of its binds must exist before its stage
/// begins, so they get their own stage.
fn build_layer(
    layer: &Layer,
    sources: &Sources,
    warnings: &mut Vec<String>,
) -> Result<Vec<Stage>, SourceError> {
    let mut stages = Vec::new();
    let mut binds =
        vec![bind(LAYER, &at("/mnt")), bind(TMP, &at("/tmp")), bind("/dev/shm", &at("/dev/shm"))];
    if !layer.hints.binds.is_empty() {
        let (mut entries, mut places) = (Vec::new(), Vec::new());
        for (index, wanted) in layer.hints.binds.iter().enumerate() {
            let source = layer.source(wanted, sources)?;
            let found = named(&source, &index.to_string(), warnings)?;
            let is_folder = matches!(found[0].kind, UploadKind::Directory(_));
            places.push(format!("{ROOT}{}{}", wanted.to, if is_folder { "/" } else { "" }));
            entries.extend(found);
            binds.push(bind(&format!("{BINDS}/{index}"), &wanted.to));
        }
        let what = format!("what {} binds", layer.name);
        let steps =
            vec![empty(BINDS), upload(&what, BINDS, entries), mount_points(BIND_SCRIPT, &places)];
        let prepare = stage(&format!("{} (binds)", layer.name), mounted(), steps);
        stages.push(Stage { keep: keep(layer), ..prepare });
    }
    let context = Context {
        image_root: Some(at(ROOT)),
        layout_at: Some(at(ROOT)),
        image_system_mounts: true,
        binds,
        ca_bundle: false,
    };
    let steps = vec![
        empty(LAYER),
        empty(TMP),
        upload(&format!("the folder of {}", layer.name), LAYER, folder(layer, warnings)?),
        Step::ResolvConf(ResolvConf::Prepare),
        Step::Run(Run {
            what: layer.kind.script().into(),
            place: Place::Image,
            argv: vec!["./build-layer".into()],
            env: env(PROGRAM_PATH),
            environment: None,
            cwd: at("/mnt"),
            stdin: None,
            capture: None,
        }),
        Step::KillProcesses { root: at(ROOT) },
        Step::ResolvConf(ResolvConf::Restore),
        empty(LAYER),
        empty(TMP),
    ];
    let run = stage(&layer.name, context, steps);
    stages.push(Stage { network: true, keep: keep_disks(layer), ..run });
    Ok(stages)
}

/// The content of a layer's directory.
fn folder(layer: &Layer, warnings: &mut Vec<String>) -> Result<Vec<UploadEntry>, SourceError> {
    let failed = |source| SourceError::Unreadable { path: layer.folder.clone(), source };
    let tree = rooted::Dir::open(&layer.real)
        .and_then(|top| inputs::tree(&top, &|_, _| false))
        .map_err(failed)?;
    warnings.extend(tree.warnings());
    inputs::entries(tree.files.iter().map(|(path, found)| (path, found))).map_err(failed)
}

/// A file or directory that a bind shows, under its own name.
fn named(
    source: &Source,
    name: &str,
    warnings: &mut Vec<String>,
) -> Result<Vec<UploadEntry>, SourceError> {
    use std::os::unix::fs::MetadataExt;
    let name = UnixPath::from(name);
    let failed = |error| source.unreadable(error);
    if source.metadata.is_file() {
        return Ok(vec![inputs::entry(name, &source.file()?).map_err(failed)?]);
    }
    if !source.metadata.is_dir() {
        return Err(source.wrong_kind("file or folder"));
    }
    let tree = source.tree()?;
    warnings.extend(tree.warnings());
    let mode = source.metadata.mode() & 0o7777;
    let mut entries = vec![UploadEntry { path: name.clone(), kind: UploadKind::Directory(mode) }];
    for (path, found) in &tree.files {
        entries.push(inputs::entry(name.join(path), found).map_err(failed)?);
    }
    Ok(entries)
}

fn bind(from: &str, to: &GuestPath) -> Bind {
    Bind { from: at(from), to: at(&format!("{ROOT}{to}")), read_only: false }
}

/// Runs a script on the bare disk. Afterwards the root is detected again, because partitions,
/// volumes and identifiers may have changed.
fn modify_disk(
    layer: &Layer,
    root: Option<&str>,
    warnings: &mut Vec<String>,
) -> Result<Stage, SourceError> {
    let path = format!("{STAND_INS}/first:{PROGRAM_PATH}:{STAND_INS}/last");
    let run = |what: &str, argv: Vec<Value>| {
        let mut env = env(&path);
        env.push(("VBUILD_DISK".into(), Value::Fact(format!("device.{DISK}"))));
        Step::Run(Run {
            what: what.to_owned(),
            place: Place::Tools,
            argv,
            env,
            environment: None,
            cwd: at(IMAGES),
            stdin: None,
            capture: None,
        })
    };
    let file = |path: &str, text| UploadEntry { path: path.into(), kind: executable(text) };
    let directory =
        |path: &str| UploadEntry { path: path.into(), kind: UploadKind::Directory(0o755) };
    let stand_ins = vec![
        directory("first"),
        file("first/qemu-img", QEMU_IMG),
        file("first/qemu-nbd", QEMU_NBD),
        directory("last"),
        file("last/growpart", GROWPART),
        file("settle", SETTLE),
    ];
    let (before, after) = ("before.qcow2", format!("{}.qcow2", layer.name));
    let marker = FileStep::Write {
        path: at(&format!("{IMAGES}/{before}")),
        content: MARKER.into(),
        mode: 0o644,
    };
    let steps = vec![
        Step::ForgetLayout,
        empty(LAYER),
        empty(IMAGES),
        upload(&format!("the folder of {}", layer.name), LAYER, folder(layer, warnings)?),
        upload("stand-ins for qemu-nbd", STAND_INS, stand_ins),
        Step::File(marker),
        run(
            layer.kind.script(),
            vec![
                format!("{LAYER}/modify-disk").into(),
                before.into(),
                after.clone().into(),
                DEVICE.into(),
            ],
        ),
        run("release the disk", vec![format!("{STAND_INS}/settle").into(), after.into()]),
        find_root(root),
        empty(LAYER),
        empty(IMAGES),
    ];
    let context = Context::default();
    Ok(Stage { network: true, keep: keep_disks(layer), ..stage(&layer.name, context, steps) })
}

#[cfg(test)]
mod tests;
