//! Builds a project of layers.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base_image::{Backing, BackingFormat, BaseImage, Format, note_backing, write_overlay};
use layers::{Base, Layer, Project, Target};
use plan::{DiskBase, Plan};

use super::{
    args::{LayersBuildArgs, RESULT},
    starting_image,
};
use crate::{
    build::{
        bases, container, formats, host_paths, logs, options, pipeline, planned::Planned, runtime,
    },
    cli::ChecksumKind,
    commands::context::{BaseBuild, Outcome, ProcessContext},
    error::{CommandError, Kind},
    run_context::RunContext,
    settings::Settings,
    ui::{self, Ui, bytes},
};

/// Runs a build of `vbuild layers`.
///
/// # Errors
/// Fails if the project is invalid, or if the build fails.
pub(super) fn run(context: &ProcessContext, args: &LayersBuildArgs) -> Outcome {
    let project = read(args)?;
    let settings = settings(args, &project);
    let view = ui::Settings::of(&args.output, logs::new_log(&settings.cache_dir));
    let console = context.console.shared_with_shell(settings.may_open_shell());
    let ui = Arc::new(Ui::open(&view, &console)?);
    let mut first = Some(project);
    runtime::run_attempts(&ui, async |ctx| {
        let project = first.take().map_or_else(|| read(args), Ok)?;
        let settings = self::settings(args, &project);
        build(context, args, &project, settings, ctx).await
    })?;
    Ok(0)
}

/// Builds a project as the base image of another one.
pub(crate) async fn build_base(
    context: &ProcessContext,
    args: &LayersBuildArgs,
    base: &BaseBuild<'_>,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    if fs::canonicalize(&args.project).is_ok_and(|project| project == base.project) {
        return Err(CommandError::usage("a project cannot be its own base"));
    }
    let project = read(args)?;
    let settings = of_project(base.settings.clone(), args, &project);
    build(context, args, &project, settings, ctx).await
}

async fn build(
    context: &ProcessContext,
    args: &LayersBuildArgs,
    project: &Project,
    settings: Settings,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    make_base(context, args, project, &settings, ctx).await?;
    let Lowered { plan, settings, base, result } = prepare(args, project, settings, ctx)?;
    result.make_folder()?;
    let loading = container::archive(args.load_into, args.formats.as_ref())?;
    let (written, shared) = pipeline::build_here(&plan, &settings, ctx).await?;
    result.finish(&base, &bases::folder(&settings.cache_dir), ctx)?;
    container::load(args.load_into, loading, &written, ctx)?;
    match shared {
        Some(shared) => shared.push(&plan, ctx).await,
        None => Ok(()),
    }
}

/// Downloads or builds the base image, after checking that the result can be written.
async fn make_base(
    context: &ProcessContext,
    args: &LayersBuildArgs,
    project: &Project,
    settings: &Settings,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    let chosen = project.up_to(args.last.as_deref())?;
    Artefact::of(args, project, chosen)?.check()?;
    let (declared, folder) = declared_base(args, project)?;
    starting_image::make(declared, folder, settings, context, ctx).await
}

/// Downloads or builds the base image that the plan of a project needs.
///
/// # Errors
/// Fails if the project is invalid, or if the base image cannot be downloaded or built.
pub(crate) async fn make_ready(
    context: &ProcessContext,
    args: &LayersBuildArgs,
    ctx: &RunContext,
) -> Result<(), CommandError> {
    let project = read(args)?;
    make_base(context, args, &project, &settings(args, &project), ctx).await
}

/// A project in its current state, lowered and ready to be built.
struct Lowered {
    plan: Plan,
    settings: Settings,
    base: BaseImage,
    result: Artefact,
}

fn read(args: &LayersBuildArgs) -> Result<Project, CommandError> {
    let sources = host_paths::sources(&args.project, &args.host_paths)?;
    layers::read(&args.project, sources).map_err(CommandError::from)
}

/// Lowers a project. Its base image must exist, because the keys of the layers depend on its
/// digest.
fn prepare(
    args: &LayersBuildArgs,
    project: &Project,
    settings: Settings,
    ctx: &RunContext,
) -> Result<Lowered, CommandError> {
    for warning in &project.warnings {
        ctx.warn(warning.clone());
    }
    let chosen = project.up_to(args.last.as_deref())?;
    let result = Artefact::of(args, project, chosen)?;
    result.check()?;
    let (declared, folder) = declared_base(args, project)?;
    let base = starting_image::find(declared, folder, &args.backing.allowed(), &settings, ctx)?;
    let layers::Lowered { plan, warnings } = lower(args, project, chosen, &base, &result)?;
    for warning in warnings {
        ctx.warn(warning);
    }
    Ok(Lowered { plan, settings, base, result })
}

/// Returns the plan of a project, for verbs that inspect it.
pub(crate) fn plan(args: &LayersBuildArgs, ctx: &RunContext) -> Result<Planned, CommandError> {
    container::archive(args.load_into, args.formats.as_ref())?;
    let project = read(args)?;
    let settings = settings(args, &project);
    let Lowered { plan, settings, result, .. } = prepare(args, &project, settings, ctx)?;
    let makes_folders = result.own_folder.is_some();
    let results = result.overlay.map(|(_, overlay, link)| {
        let linked = (link != overlay).then_some((link, "a link to it"));
        [(overlay, "qcow2, an overlay over the base")].into_iter().chain(linked).collect()
    });
    Ok(Planned { makes_folders, results, ..Planned::new(plan, settings) })
}

fn settings(args: &LayersBuildArgs, project: &Project) -> Settings {
    of_project(options::builder_settings(&args.builder), args, project)
}

/// Applies the time limit of scripts from the arguments, and the network and the packages of the
/// project, to the settings.
fn of_project(mut settings: Settings, args: &LayersBuildArgs, project: &Project) -> Settings {
    settings.script_timeout = args.timeout.map(|seconds| Duration::from_secs(seconds.into()));
    settings.network &= project.config.network.unwrap_or(true);
    settings.appliance_packages.extend(project.config.packages.iter().cloned());
    settings
}

/// Returns the base image, and the directory against which its path is resolved.
fn declared_base<'a>(
    args: &'a LayersBuildArgs,
    project: &'a Project,
) -> Result<(&'a Base, &'a Path), CommandError> {
    if let Some(base) = &args.base {
        // A path on the command line is relative to the working directory.
        return Ok((base, Path::new("")));
    }
    let declared = project.config.base.as_ref().ok_or_else(|| {
        CommandError::usage("nothing says what the first layer starts from")
            .hint(format!("`base:` in {}, or --base IMAGE", layers::CONFIG_FILE))
    })?;
    if let Base::Image { path, .. } = declared {
        project.sources.find(Path::new(path)).map_err(|error| {
            CommandError::from(error).hint("or name it on the command line: `--base`")
        })?;
    }
    Ok((declared, &project.folder))
}

fn lower(
    args: &LayersBuildArgs,
    project: &Project,
    chosen: &[Layer],
    base: &BaseImage,
    result: &Artefact,
) -> Result<layers::Lowered, CommandError> {
    let size = args.size.map(|size| size.0).or(project.config.size);
    if let Some(size) = size.filter(|size| *size < base.bytes) {
        let text = format!(
            "the size of {} is less than the {} of the base image",
            bytes(size),
            bytes(base.bytes)
        );
        return Err(CommandError::usage(text).hint("a disk can only grow"));
    }
    let request = layers::Request {
        base: disk_base(base),
        size,
        root: args.root.clone().or_else(|| project.config.root.clone()),
        layers: chosen,
        target: Target {
            files: result.files.clone(),
            compress: !args.uncompressed,
            options: args.qemu_img_options.clone().filter(|_| result.overlay.is_none()),
            checksums: args.checksum.iter().copied().map(ChecksumKind::into_plan).collect(),
        },
    };
    layers::lower(project, &request).map_err(CommandError::from)
}

/// Converts a base image to the base of a disk in a plan.
pub(super) fn disk_base(base: &BaseImage) -> DiskBase {
    DiskBase { path: base.raw.clone(), offset: 0, bytes: base.bytes, sha256: base.digest }
}

/// The files that a build writes.
#[derive(Debug)]
struct Artefact {
    /// The files that the pipeline writes: images and archives, or the raw disk for the overlay.
    files: Vec<layers::File>,
    /// The paths of the raw disk, of the overlay, and of the link to the overlay.
    overlay: Option<(PathBuf, PathBuf, PathBuf)>,
    /// The project's own build directory, if the result is written there.
    own_folder: Option<PathBuf>,
}

impl Artefact {
    fn of(
        args: &LayersBuildArgs,
        project: &Project,
        chosen: &[Layer],
    ) -> Result<Self, CommandError> {
        let build = project.folder.join(::layers::BUILD_FOLDER);
        let file = match &args.file {
            Some(file) => file.clone(),
            None => build.join(RESULT),
        };
        let own_folder = args.file.is_none().then_some(build);
        let suffix = file.extension().map(|suffix| suffix.to_string_lossy().into_owned());
        let suffix = suffix.unwrap_or_default();
        let plain = |format: &str, path: PathBuf| layers::File {
            format: format.to_owned(),
            path,
            is_of_tree: false,
            container: None,
        };
        if let Some(formats) = &args.formats {
            let files = formats.0.iter().map(|format| file_of(args, &file, format)).collect();
            return Ok(Self { files, overlay: None, own_folder });
        }
        if args.flatten || suffix != "qcow2" {
            let Some(format) = format_of(&file) else {
                let text = format!("{}: its suffix is no format of a disk", file.display());
                return Err(CommandError::usage(text).hint("such as .qcow2, .raw or .vmdk"));
            };
            return Ok(Self { files: vec![plain(format, file)], overlay: None, own_folder });
        }
        if args.qemu_img_options.is_some() {
            let text = "--qemu-img-options: an overlay has none";
            return Err(CommandError::usage(text).hint("`--flatten` writes an image that has"));
        }
        let folder = file.parent().filter(|path| !path.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let last = chosen.last().map_or("base", |layer| layer.name.as_str());
        let disk = folder.join(format!(".{last}.raw"));
        Ok(Self {
            files: vec![plain("raw", disk.clone())],
            overlay: Some((disk, folder.join(format!("{last}.qcow2")), file)),
            own_folder,
        })
    }

    /// Checks that all files can be written.
    fn check(&self) -> Result<(), CommandError> {
        let overlay = self.overlay.iter().flat_map(|(_, overlay, link)| [overlay, link]);
        for path in overlay.chain(self.files.iter().map(|file| &file.path)) {
            output::check_file(path, &[], self.own_folder.is_some())
                .map_err(|error| CommandError { kind: Kind::Usage, ..CommandError::from(error) })?;
        }
        Ok(())
    }

    /// Creates the project's own build directory. A directory that the user names must exist.
    fn make_folder(&self) -> Result<(), CommandError> {
        let Some(folder) = &self.own_folder else { return Ok(()) };
        rooted::make_user_directories(folder).map_err(|error| {
            CommandError::new(Kind::Host, error)
                .context(format!("cannot make {}", folder.display()))
        })
    }

    /// Converts the disk to an overlay over the base, and creates a link to it. If the base's
    /// source file is in the cache, the overlay is based on its raw disk: the source file may
    /// change, the raw disk never does.
    fn finish(&self, base: &BaseImage, bases: &Path, ctx: &RunContext) -> Result<(), CommandError> {
        let Some((disk, overlay, link)) = &self.overlay else { return Ok(()) };
        let backing = backing(base, overlay);
        let written = write_overlay(disk, &base.raw, &backing, overlay).map_err(CommandError::from);
        // The raw disk was only needed for the overlay. If it cannot be removed, it does no harm.
        let _ = fs::remove_file(disk);
        let written = written?;
        note_backing(bases, overlay, &backing)?;
        if backing.path == base.raw {
            base_image::note_overlay(bases, &base.raw, overlay)?;
        }
        ctx.say(format!(
            "wrote {} ({}), over {}",
            overlay.display(),
            bytes(written.bytes),
            backing.path.display()
        ));
        if overlay == link {
            return Ok(());
        }
        let host = |error: std::io::Error| {
            CommandError::new(Kind::Host, error).context(format!("cannot link {}", link.display()))
        };
        // The link is replaced atomically: on failure, the old one remains.
        let target = overlay.file_name().unwrap_or_default();
        let fresh = link.with_extension("new-link");
        let _ = fs::remove_file(&fresh);
        std::os::unix::fs::symlink(target, &fresh).map_err(host)?;
        fs::rename(&fresh, link).map_err(host)?;
        ctx.say(format!("{} leads to it", link.display()));
        Ok(())
    }
}

/// Returns the output file of a format, named by the rules for outputs of vmdb2 specs.
fn file_of(args: &LayersBuildArgs, file: &Path, format: &'static output::Format) -> layers::File {
    let choice = formats::for_vmdb(format);
    let is_only = args.formats.as_ref().is_some_and(|formats| formats.0.len() == 1);
    let container = format.container.and(args.docker_target.clone());
    layers::File {
        path: vmdb::formats::file_of(&file.to_string_lossy(), &choice, is_only),
        format: choice.name,
        is_of_tree: choice.is_of_tree,
        container,
    }
}

/// Returns the disk format that a file's suffix stands for, by the rules for outputs of vmdb2
/// specs.
fn format_of(file: &Path) -> Option<&'static str> {
    let name = file.file_name()?.to_str()?;
    let (format, stem) = vmdb::formats::format_of(name);
    (stem != name).then_some(format)
}

/// Returns the backing file for the overlay's header. It is the user's own file, if that is a raw
/// or qcow2 image, and else the raw disk in the cache. The path of the user's file is relative to
/// the overlay if they share a directory other than `/`, so that a project can be moved as a whole.
fn backing(base: &BaseImage, overlay: &Path) -> Backing {
    let format = match base.format {
        Some(Format::Raw) if !is_cached(base) => BackingFormat::Raw,
        Some(Format::Qcow2) if !is_cached(base) => BackingFormat::Qcow2,
        _ => return Backing { path: base.raw.clone(), format: BackingFormat::Raw },
    };
    let folder = overlay.parent().filter(|path| !path.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new(".")));
    let path = folder.ok().and_then(|folder| relative(&base.source, &folder));
    Backing { path: path.unwrap_or_else(|| base.source.clone()), format }
}

/// Whether the source file of a base is in vbuild's own cache. Such a file may change: the result
/// of a recipe is overwritten by each of its builds.
fn is_cached(base: &BaseImage) -> bool {
    let folder = base.raw.parent().and_then(Path::parent).map(fs::canonicalize);
    folder.and_then(Result::ok).is_some_and(|folder| base.source.starts_with(folder))
}

/// Returns a path relative to a directory, if they share more than the root.
fn relative(path: &Path, folder: &Path) -> Option<PathBuf> {
    let shared = path.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    if shared < 2 {
        return None;
    }
    let up = folder.components().skip(shared).map(|_| Path::new(".."));
    let down = path.components().skip(shared).map(|part| Path::new(part.as_os_str()));
    Some(up.chain(down).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_within_a_project_are_relative() {
        let seen = |path: &str, folder: &str| {
            relative(Path::new(path), Path::new(folder)).map(|path| path.display().to_string())
        };
        assert_eq!(seen("/p/base.img", "/p/build"), Some("../base.img".into()));
        assert_eq!(seen("/p/build/base.img", "/p/build"), Some("base.img".into()));
        assert_eq!(seen("/home/a/x/b.img", "/home/a/p/build"), Some("../../x/b.img".into()));
        assert_eq!(seen("/srv/b.img", "/home/a"), None);
    }
}
