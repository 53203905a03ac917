//! The stages in order, each with all that it needs.
//!
//! ```text
//! prepare ─ root.d ─ extra-data.d ─ pre-install.d ─ install.d ─ packages ─ post-install.d
//!         ─ post-root.d ─ size ─ layout ─ copy ─ pre-finalise.d ─ finalise.d ─ cleanup.d
//!         ─ export ─ seal (─ canonicalise, with SOURCE_DATE_EPOCH)
//! ```
//!
//! Up to post-root.d the tree is a directory; from copy on it is the mounted image. A phase for
//! which no element has a directory gets no stage of its own, but runs in the stage of its
//! neighbour, because a script may create the directory.

use plan::{
    Context, FileSource, FileStep, NodeKind, Place, ResolvConf, Run, Stage, Step, UnixPath,
    UploadEntry, UploadKind, Value,
};
use rooted::Dir;

use crate::{
    environment::double_quoted,
    error::DibError,
    files::{self, Tree},
    guest,
    hooks::Visible,
    lower::{
        Build, outputs,
        steps::{
            directory_context, helper, image_context, inside, make_directory, path, run_parts,
            upload, write,
        },
    },
    phase::Phase,
};

const SAVE_MOUNTS: &str = include_str!("../../scripts/save-mounts.sh");
const RESTORE_MOUNTS: &str = include_str!("../../scripts/restore-mounts.sh");
const UNMOUNT_BELOW: &str = include_str!("../../scripts/unmount-below.sh");
/// Keeps apt's downloads on the helper drive.
const CHROOT: &str = include_str!("../../scripts/chroot");
const IMAGE_USAGE: &str = include_str!("../../scripts/image-usage.sh");

/// File with the mounts that scripts of root.d made.
const ROOT_MOUNTS: &str = "mounts-of-root.d";
/// File with the mounts of root.d and extra-data.d.
const TREE_MOUNTS: &str = "mounts-of-extra-data.d";

/// All stages.
pub(crate) fn stages(build: &Build<'_>) -> Result<Vec<Stage>, DibError> {
    let mut stages = vec![prepare(build)?, root(build)?, extra_data(build)?];
    for phase in [Phase::PreInstall, Phase::Install] {
        stages.push(phase_stage(build, phase, inside(directory_context()))?);
    }
    stages.extend(packages(build)?);
    stages.push(phase_stage(build, Phase::PostInstall, inside(directory_context()))?);
    if build.hooks.has_phase(Phase::PostRoot) {
        stages.push(phase_stage(build, Phase::PostRoot, directory_context())?);
    } else if let Some(last) = stages.last_mut() {
        last.steps.push(run_parts(build, Phase::PostRoot, build.save_directory()?)?);
    }
    stages.push(size(build)?);
    stages.push(layout(build));
    stages.push(copy());
    let mut finalise = phase_stage(build, Phase::Finalise, inside(image_context()))?;
    if build.hooks.has_phase(Phase::PreFinalise) {
        stages.push(phase_stage(build, Phase::PreFinalise, image_context())?);
    } else {
        let before = finalise.steps.len().saturating_sub(1);
        let step = run_parts(build, Phase::PreFinalise, build.save_directory()?)?;
        finalise.steps.insert(before, step);
    }
    stages.push(finalise);
    stages.push(cleanup(build)?);
    stages.push(export(build)?);
    stages.push(seal());
    stages.extend(build.options.source_date_epoch.map(canonical));
    // Only user-supplied scripts need the network.
    for stage in &mut stages {
        let scripts = stage.steps.iter().any(|step| match step {
            Step::RunParts(_) => true,
            Step::Run(run) => run.place == Place::Image,
            _ => false,
        });
        stage.network = scripts && !build.options.no_network;
    }
    Ok(stages)
}

fn stage(name: &str, context: Context, steps: Vec<Step>) -> Stage {
    Stage {
        name: name.to_owned(),
        context,
        steps,
        network: false,
        keep: plan::Keep::Shared,
        timeout_s: None,
    }
}

/// Uploads the hooks and elements that become visible at `visible`.
fn uploads(build: &Build<'_>, visible: Visible) -> Result<Vec<Step>, DibError> {
    let when = match visible {
        Visible::FromTheStart => "all phases",
        Visible::From(phase) => phase.directory(),
    };
    let mut elements = Vec::new();
    if visible == Visible::FromTheStart {
        let directory = |path: String| UploadEntry {
            path: path.as_str().into(),
            kind: UploadKind::Directory(0o755),
        };
        elements.extend((0..build.located.elements.len()).map(|n| directory(n.to_string())));
        elements.extend(
            build
                .elements
                .iter()
                .map(|element| directory(format!("{}/{}", element.search_index, element.name))),
        );
    }
    for element in &build.elements {
        for mut entry in build.hooks.element_part(&element.name, visible)? {
            let top = format!("{}/{}", element.search_index, element.name);
            entry.path = UnixPath::from(top.as_str()).join(&entry.path);
            elements.push(entry);
        }
    }
    elements.sort_by(|a, b| a.path.cmp(&b.path));
    let hooks = build.hooks.part(visible)?;
    let steps = [
        upload(format!("hooks of {when}"), path(guest::HOOKS), hooks),
        upload(format!("elements for {when}"), path(guest::ELEMENTS), elements),
    ];
    Ok(steps.into_iter().flatten().collect())
}

/// Creates the directories on the helper drive. Each stage does this: the drive is not part of a
/// stage's input, and may be a different one next time.
fn helper_directories(build: &Build<'_>) -> Result<Vec<Step>, DibError> {
    Ok([path(guest::HOME), path(guest::LOCKFILES), build.image_cache()?]
        .map(make_directory)
        .to_vec())
}

/// The first steps of each stage that runs scripts.
fn before_scripts(build: &Build<'_>, phase: Phase) -> Result<Vec<Step>, DibError> {
    let mut steps = uploads(build, Visible::From(phase))?;
    steps.extend(helper_directories(build)?);
    if !phase.is_inside() {
        // losetup needs the module, and no udev rule loads it here. Each stage does this, as it may
        // be the first one in its machine.
        let load = "[ -e /dev/loop-control ] || modprobe -q loop || :";
        steps.push(Step::Run(helper("have loop devices", load, Vec::new())));
    }
    let mounts = match phase {
        Phase::ExtraData => Some(ROOT_MOUNTS),
        Phase::PreInstall | Phase::Install | Phase::PostInstall | Phase::PostRoot => {
            Some(TREE_MOUNTS)
        }
        _ => None,
    };
    steps.extend(mounts.map(|fact| {
        let mounts = vec![Value::Fact(fact.to_owned())];
        Step::Run(helper("restore mounts", RESTORE_MOUNTS, mounts))
    }));
    Ok(steps)
}

fn save_mounts(fact: &str) -> Step {
    let run = helper("note mounts", SAVE_MOUNTS, vec![guest::MNT.into()]);
    Step::Run(Run { capture: Some(fact.to_owned()), ..run })
}

fn unmount_below(directory: &str, keep: Vec<Value>) -> Step {
    let arguments = std::iter::once(Value::from(directory)).chain(keep).collect();
    Step::Run(helper("unmount what scripts mounted", UNMOUNT_BELOW, arguments))
}

/// A stage that only runs the scripts of a phase.
fn phase_stage(build: &Build<'_>, phase: Phase, context: Context) -> Result<Stage, DibError> {
    let mut steps = before_scripts(build, phase)?;
    let cwd = if phase.is_inside() { path("/") } else { build.save_directory()? };
    steps.push(run_parts(build, phase, cwd)?);
    Ok(stage(phase.directory(), context, steps))
}

fn prepare(build: &Build<'_>) -> Result<Stage, DibError> {
    let mut steps = Vec::new();
    let not_needed = |path: &str, directory: bool| {
        directory && matches!(path, "elements" | "lib" | "tests" | "block_device/tests")
    };
    let package = files::read_tree(&Dir::open(&build.located.package)?, &not_needed)?.0;
    steps.extend(upload_tree("the package diskimage_builder", guest::PACKAGE, &package)?);
    let lib = files::read_tree(&Dir::open(&build.located.lib)?, &|_, _| false)?.0;
    steps.extend(upload_tree("the library of diskimage-builder", guest::LIB, &lib)?);
    // Elements for other programs call dib-run-parts by name; the hooks tree has a copy.
    let runner = lib
        .get("dib-run-parts")
        .map(|_| inputs::entries(lib.iter().filter(|(path, _)| **path == "dib-run-parts")));
    if let Some(runner) = runner.transpose()? {
        for directory in [guest::TOOLS_BIN, guest::HOOKS] {
            steps.extend(upload("dib-run-parts".into(), path(directory), runner.clone()));
        }
    }
    let chroot = UploadKind::File { mode: 0o755, source: FileSource::Text(CHROOT.to_owned()) };
    let chroot = vec![UploadEntry { path: "chroot".into(), kind: chroot }];
    steps.extend(upload("a chroot".into(), path(guest::TOOLS_BIN), chroot));
    for directory in [guest::MNT, guest::IMAGE_DIR, guest::HOOKS, guest::BLOCK_DEVICE] {
        steps.push(make_directory(path(directory)));
    }
    steps.push(make_directory(build.save_directory()?));
    steps.extend(uploads(build, Visible::FromTheStart)?);
    steps.extend(block_device_files(build));
    steps.extend(shares(build)?);
    steps.extend(build.options.python.as_deref().map(find_python));
    Ok(stage("prepare", Context::default(), steps))
}

/// Checks for the interpreter early: elements would fail late and with various messages.
fn find_python(python: &str) -> Step {
    let look = "command -v \"$1\" || { echo \"$1 needed but not found\" >&2; exit 1; }";
    Step::Run(helper("find python", look, vec![Value::from(python)]))
}

fn upload_tree(what: &str, to: &str, tree: &Tree) -> Result<Option<Step>, DibError> {
    Ok(upload(what.to_owned(), path(to), inputs::entries(tree)?))
}

/// Writes the block-device configuration and its parameters where scripts may look for them.
fn block_device_files(build: &Build<'_>) -> Vec<Step> {
    let config = format!("{}/config.yaml", guest::BLOCK_DEVICE);
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let label = build.settings.root_label.as_deref().map(text).unwrap_or_default();
    let mut parameters = format!(
        "config: {config}\nimage-dir: {}\nroot-fs-type: {}\nroot-label: {label}\n\
         mount-base: {}\nbuild-dir: {}\n",
        guest::IMAGE_DIR,
        text(&build.settings.fs_type),
        guest::MNT,
        guest::BUILD,
    );
    if !build.root_options.is_empty() {
        parameters.push_str("root-fs-opts: ");
        parameters.push_str(&text(&build.root_options));
        parameters.push('\n');
    }
    vec![
        write(path(&config), build.config.text.clone()),
        write(path(&format!("{}/params.yaml", guest::BLOCK_DEVICE)), parameters),
    ]
}

/// Uploads the files that the user shares with scripts.
fn shares(build: &Build<'_>) -> Result<Vec<Step>, DibError> {
    let mut steps = Vec::new();
    for share in &build.shares {
        let entries = inputs::entries(&share.tree)?;
        steps.extend(upload(share.what.clone(), share.to.clone(), entries));
    }
    Ok(steps)
}

fn root(build: &Build<'_>) -> Result<Stage, DibError> {
    // The tree is empty at first, and the tools that fill it require that, so nothing may be
    // mounted in it.
    let context = Context { image_system_mounts: false, ..directory_context() };
    let mut steps = before_scripts(build, Phase::Root)?;
    steps.push(run_parts(build, Phase::Root, build.save_directory()?)?);
    steps.push(Step::RequireContent {
        path: path(guest::MNT),
        ignore: vec!["lost+found".into(), "tmp".into()],
        message: "Failed to deploy the root element.".into(),
    });
    // debootstrap copies resolv.conf from its own system, which is the appliance.
    let forget = "if [ ! -L \"$1\" ] && cmp -s /etc/resolv.conf \"$1\"; then rm -f \"$1\"; fi";
    let resolver = vec![Value::from(format!("{}/etc/resolv.conf", guest::MNT))];
    steps.push(Step::Run(helper("forget the appliance's resolver", forget, resolver)));
    steps.push(Step::ResolvConf(ResolvConf::Prepare));
    steps.push(save_mounts(ROOT_MOUNTS));
    Ok(stage(Phase::Root.directory(), context, steps))
}

fn extra_data(build: &Build<'_>) -> Result<Stage, DibError> {
    let mut steps = before_scripts(build, Phase::ExtraData)?;
    // Written only now, since root.d must not see the variable.
    let environment = format!("{}/environment.d", guest::HOOKS);
    steps.push(make_directory(path(&environment)));
    let kind = double_quoted(&build.settings.install_type);
    steps.push(write(
        path(&format!("{environment}/11-dib-install-type.bash")),
        format!("export DIB_DEFAULT_INSTALLTYPE=${{DIB_DEFAULT_INSTALLTYPE:-{kind}}}\n"),
    ));
    steps.push(run_parts(build, Phase::ExtraData, build.save_directory()?)?);
    steps.push(save_mounts(TREE_MOUNTS));
    Ok(stage(Phase::ExtraData.directory(), directory_context(), steps))
}

/// Installs the packages of the command line once, with one call.
fn packages(build: &Build<'_>) -> Result<Option<Stage>, DibError> {
    let packages = &build.options.extra_packages;
    if packages.is_empty() {
        return Ok(None);
    }
    let mut steps = helper_directories(build)?;
    let mounts = vec![Value::Fact(TREE_MOUNTS.to_owned())];
    steps.push(Step::Run(helper("restore mounts", RESTORE_MOUNTS, mounts)));
    let argv = std::iter::once("install-packages").chain(packages.iter().map(String::as_str));
    steps.push(Step::Say { text: format!("Installing: {}", packages.join(" ")) });
    steps.push(Step::Run(Run {
        what: "install-packages".into(),
        place: Place::Image,
        argv: argv.map(Value::from).collect(),
        env: build.environment().of(Phase::Install),
        environment: None,
        cwd: path("/"),
        stdin: None,
        capture: None,
    }));
    Ok(Some(stage("packages", Context { ca_bundle: true, ..directory_context() }, steps)))
}

/// Moves the tree aside and computes the image size.
fn size(build: &Build<'_>) -> Result<Stage, DibError> {
    let mut steps = vec![
        Step::KillProcesses { root: path(guest::MNT) },
        unmount_below(guest::MNT, Vec::new()),
        Step::File(FileStep::Remove {
            path: path(&format!("{}/lost+found", guest::MNT)),
            content_only: false,
        }),
        Step::File(FileStep::Rename { from: path(guest::MNT), to: path(guest::BUILT) }),
        make_directory(path(guest::MNT)),
    ];
    steps.extend(build.size.step.clone().map(Step::ImageSize));
    if build.settings.show_usage {
        let mut arguments = vec![Value::from(guest::BUILT)];
        arguments.extend(build.settings.show_usage_full.then(|| Value::from("full")));
        steps.push(Step::Run(helper("image size report", IMAGE_USAGE, arguments)));
    }
    steps.extend(before_scripts(build, Phase::BlockDevice)?);
    steps.push(run_parts(build, Phase::BlockDevice, build.save_directory()?)?);
    Ok(stage("size", Context::default(), steps))
}

fn layout(build: &Build<'_>) -> Stage {
    let etc = format!("{}/etc", guest::BUILT);
    let steps = vec![
        Step::CreateLayout(build.devices.layout.clone()),
        make_directory(path(&etc)),
        Step::WriteFstab { path: path(&format!("{etc}/fstab")) },
    ];
    stage("layout", Context::default(), steps)
}

fn copy() -> Stage {
    let context = Context { layout_at: Some(path(guest::MNT)), ..Context::default() };
    let steps = vec![Step::CopyTree { from: path(guest::BUILT), to: path(guest::MNT) }];
    stage("copy", context, steps)
}

/// Runs cleanup.d and diskimage-builder's own cleanup of the image.
fn cleanup(build: &Build<'_>) -> Result<Stage, DibError> {
    let mut steps = before_scripts(build, Phase::Cleanup)?;
    steps.push(run_parts(build, Phase::Cleanup, build.save_directory()?)?);
    steps.push(Step::ResolvConf(ResolvConf::Restore));
    let tmp = format!("{}/tmp", guest::MNT);
    steps.push(unmount_below(&tmp, image_mounts(build)));
    steps.push(Step::File(FileStep::Remove { path: path(&tmp), content_only: true }));
    steps
        .push(Step::File(FileStep::TruncateAll { path: path(&format!("{}/var/log", guest::MNT)) }));
    let logs = "if [ -d \"$1\" ]; then find \"$1\" -xdev -name '*.log' -type f -delete; fi";
    let root = vec![Value::from(format!("{}/root", guest::MNT))];
    steps.push(Step::Run(helper("remove logs of root", logs, root)));
    Ok(stage(Phase::Cleanup.directory(), image_context(), steps))
}

/// The mount points of the image itself, which stay mounted.
fn image_mounts(build: &Build<'_>) -> Vec<Value> {
    build
        .devices
        .layout
        .nodes
        .iter()
        .filter_map(|node| match &node.kind {
            NodeKind::Mount(mount) if mount.mount_point != "/" => {
                Some(Value::from(format!("{}{}", guest::MNT, mount.mount_point)))
            }
            _ => None,
        })
        .collect()
}

fn export(build: &Build<'_>) -> Result<Stage, DibError> {
    let mut steps = vec![
        Step::KillProcesses { root: path(guest::MNT) },
        unmount_below(guest::MNT, image_mounts(build)),
        Step::Fetch { from: build.save_directory()?, to: outputs::side_directory(build) },
    ];
    steps.extend(
        build
            .options
            .source_date_epoch
            .map(|epoch| Step::ClampTimes { root: path(guest::MNT), epoch }),
    );
    steps.extend(outputs::tree_steps(build));
    let context = Context { image_system_mounts: false, ..image_context() };
    Ok(stage("export", context, steps))
}

fn seal() -> Stage {
    let context = Context { layout_at: Some(path(guest::MNT)), ..Context::default() };
    stage("seal", context, vec![Step::Trim])
}

/// Rewrites filesystems canonically: written through mounts, they differ in every build.
fn canonical(epoch: u64) -> Stage {
    stage("canonicalise", Context::default(), vec![Step::Canonicalise { epoch }])
}
