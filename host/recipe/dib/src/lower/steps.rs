//! Shorthands for steps.

use plan::{
    Bind, Context, FileStep, GuestPath, Place, Run, RunParts, Script, Step, UnixPath, Upload,
    UploadEntry, Value,
};

use crate::{
    environment::{Environment, guest_path},
    error::DibError,
    guest,
    lower::Build,
    phase::Phase,
};

/// Converts a literal path of this program.
pub(crate) fn path(text: &str) -> GuestPath {
    GuestPath::new(text).expect("paths of this program are absolute and normal")
}

pub(crate) fn make_directory(path: GuestPath) -> Step {
    Step::File(FileStep::MakeDirectory { path, mode: 0o755 })
}

pub(crate) fn write(path: GuestPath, content: impl Into<String>) -> Step {
    Step::File(FileStep::Write { path, content: content.into(), mode: 0o644 })
}

/// An upload step; `None` if there are no entries.
pub(crate) fn upload(what: String, to: GuestPath, entries: Vec<UploadEntry>) -> Option<Step> {
    (!entries.is_empty()).then_some(Step::Upload(Upload { what, to, entries }))
}

/// Runs a script of this program outside, with the plain shell.
pub(crate) fn helper(what: &str, script: &str, arguments: Vec<Value>) -> Run {
    let mut argv: Vec<Value> = ["sh", "-c", script, what].into_iter().map(Value::from).collect();
    argv.extend(arguments);
    Run {
        what: what.to_owned(),
        place: Place::Tools,
        argv,
        env: Environment::of_helpers(),
        environment: None,
        cwd: path("/"),
        stdin: None,
        capture: None,
    }
}

/// Runs the scripts of a phase.
pub(crate) fn run_parts(build: &Build<'_>, phase: Phase, cwd: GuestPath) -> Result<Step, DibError> {
    let hooks = if phase.is_inside() { guest::IN_TARGET } else { guest::HOOKS };
    let mut scripts = Vec::new();
    for (name, element, found) in build.hooks.single_scripts(phase) {
        let element = build.elements.iter().find(|known| known.name == element);
        let directories = element.map(guest_path).into_iter().chain([guest::HOOKS.to_owned()]);
        // Both are below the build directory, so one upload is enough.
        let places: Vec<UnixPath> = directories
            .map(|directory| format!("{directory}/{}/{name}", phase.directory()))
            .filter_map(|place| Some(place.strip_prefix(guest::UPLOADS)?.into()))
            .collect();
        scripts.push(Script {
            name: name.to_owned(),
            upload: Upload {
                what: format!("{}/{name}", phase.directory()),
                to: path(guest::UPLOADS),
                entries: inputs::entries(places.iter().map(|place| (place, found)))?,
            },
        });
    }
    Ok(Step::RunParts(RunParts {
        phase: phase.directory().to_owned(),
        place: if phase.is_inside() { Place::Image } else { Place::Tools },
        directory: path(&format!("{hooks}/{}", phase.directory())),
        environment: Some(path(&format!("{hooks}/environment.d"))),
        env: build.environment().of(phase),
        cwd,
        origins: build.hooks.origins(phase),
        block_device_output: phase == Phase::BlockDevice,
        scripts,
    }))
}

/// The context in which the tree is a directory.
pub(crate) fn directory_context() -> Context {
    Context {
        image_root: Some(path(guest::MNT)),
        layout_at: None,
        image_system_mounts: true,
        binds: Vec::new(),
        ca_bundle: false,
    }
}

/// The context in which the tree is the mounted image.
pub(crate) fn image_context() -> Context {
    Context { layout_at: Some(path(guest::MNT)), ..directory_context() }
}

/// The same context with the hooks mounted read-only, for scripts inside.
pub(crate) fn inside(context: Context) -> Context {
    let bind = Bind {
        from: path(guest::HOOKS),
        to: path(&format!("{}{}", guest::MNT, guest::IN_TARGET)),
        read_only: true,
    };
    Context { binds: vec![bind], ca_bundle: true, ..context }
}
